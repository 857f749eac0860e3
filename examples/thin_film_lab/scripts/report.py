"""What is known of the film, and who said that it is enough."""

import argparse
import json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("summaries", nargs="+", help="of the measurements, the last one counts")
    parser.add_argument("--answer", required=True)
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    with open(options.summaries[-1]) as file:
        film = json.load(file)
    with open(options.answer) as file:
        answer = json.load(file)
    lines = [
        "# The film",
        "",
        f"Thickness {film['thickness_A']:.1f} Å ± {max(film['error_A'], film['spread_A']):.1f} Å, "
        f"chi²/n {film['chi2_per_n']:.2f}.",
        f"Measurements: {len(options.summaries)}.",
        f"First decision: {answer['data']['decision']}, by {answer['by']} on {answer['at'][:10]}.",
    ]
    with open(options.out, "w") as file:
        file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
