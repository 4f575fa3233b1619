"""How well the paper's settings of the predictor and the defaults rank nets of several exits after few records; prints JSON.

    python benchmarks/predictor_settings.py [--config=configs/enas4d_cifar10.py] [--records=1000] [--seeds=3]

The reward is made up, so that as many nets as are wanted have one: r = z1 + z2 z3 / 3, where each z is a sum over the choices of
a genome, each of which counts a normal number, standardised over the nets. Records have a tenth of its deviation as noise. Of 300
nets that have no part in the fit: Kendall's tau, and the error in deviations of r.
"""

import argparse

import jax
import numpy as np
import result
from scipy.stats import kendalltau

from dynnas_jax import job, settings
from dynnas_jax.search import predictor

SETTINGS = {"defaults": {}, "the paper's": {"epochs": 30, "learning_rate": 1e-4, "weight_decay": 1e-5}}
UNSEEN, NOISE, SHARE = 300, 0.1, 0.2  # nets that judge; of the deviation; of the records that `predictor.fit` holds out
FACTS = {"image_shape": [32, 32, 3], "classes": [""] * 10, "mean": [0.5] * 3, "std": [0.25] * 3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/enas4d_cifar10.py")
    parser.add_argument("--records", type=int, default=1000, help="to learn from")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    space = job.build(settings.as_dict(settings.load([f"--config={options.config}"])), FACTS).space
    found = {
        name: [judged(space, options.records, seed, own) for seed in range(options.seeds)]
        for name, own in SETTINGS.items()
    }
    result.show(f"predictors after {options.records} records of a made-up reward", {"results": found})


def judged(space, records: int, seed: int, options: dict) -> dict:
    """Of one predictor: how it ranks nets it has not seen, and how far off it is."""
    sample_key, fit_key = jax.random.split(jax.random.key(seed))
    count = round(records / (1 - SHARE))
    genomes = np.asarray(space.sample(sample_key, count + UNSEEN))
    generator = np.random.default_rng(seed)
    reward = made_up(np.asarray(jax.vmap(space.encode)(genomes)), generator)
    recorded = reward[:count] + NOISE * generator.normal(size=count)
    fitted = predictor.fit(space, genomes[:count], recorded, key=fit_key, held_out=SHARE, **options)
    told = np.asarray(jax.jit(jax.vmap(fitted))(genomes[count:]))
    error = np.sqrt(np.mean((told - reward[count:]) ** 2))
    return {"kendall_tau": float(kendalltau(told, reward[count:]).statistic), "error": float(error)}


def made_up(choices: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """float64[n], standardised: the reward of genomes as one-hot choices [n, f]."""
    one, two, three = (_standardised(choices @ generator.normal(size=choices.shape[1])) for _ in range(3))
    return _standardised(one + two * three / 3)


def _standardised(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / values.std()


if __name__ == "__main__":
    main()
