"""The model of the film on its wafer: Si | SiO2 | film | D2O, for the prediction and for the fits.

Thickness and roughness in Å, scattering length densities in 1e-6 Å⁻², resolution dq/q in percent (full width).
"""

from refnx.reflect import SLD, ReflectModel


def reflect_model(thickness: float, film_sld: float) -> ReflectModel:
    """Give a model with nothing varying; ``film_sld`` is that of the film with the D2O that it took up."""
    silicon, oxide, water = SLD(2.07, "Si"), SLD(3.47, "SiO2"), SLD(6.36, "D2O")
    film = SLD(film_sld, "film")
    model = ReflectModel(silicon | oxide(30, 5) | film(thickness, 8) | water(0, 4), bkg=5e-7, dq=5.0)
    model.scale.value = 0.9
    return model


def let_vary(model: ReflectModel) -> None:
    """Let the fit vary what the measurement decides, within bounds that a film of this kind can have."""
    _, oxide, film, water = model.structure
    model.scale.setp(vary=True, bounds=(0.8, 1.2))
    model.bkg.setp(vary=True, bounds=(1e-8, 1e-5))
    oxide.thick.setp(vary=True, bounds=(10, 60))
    oxide.rough.setp(vary=True, bounds=(0, 10))
    film.thick.setp(vary=True, bounds=(200, 300))
    film.rough.setp(vary=True, bounds=(0, 20))
    film.sld.real.setp(vary=True, bounds=(0.1, 3))
    water.rough.setp(vary=True, bounds=(0, 20))
