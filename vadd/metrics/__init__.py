"""The measures: pure functions, arrays in, numbers out. They know nothing of models and runs.

    divergence   tables of probabilities, where the law is known: JS, TV, entropy, and the floor of finite samples
    statistics   marginals and pairs, for any categorical data
    neighbours   precision, recall, density, coverage, on points
    frechet      the Fréchet distance, on features; a small classifier that makes them
    text         entropy, repetition and n-grams of text, perplexity
    two_sample   whether two clouds of points have one law
    classifier   features for small images: a network trained on their labels and kept      (not imported here: torch)
    fid          features for photographs: Inception                                        (not imported here: torch)
    summary      several seeds: means with standard errors, differences paired by seed or by example

Distances from samples are biased upwards: read each beside its floor, which is the same function with real data in
place of the samples (`sampling_floor` where the law is known). Information is in nats.
"""

from vadd.metrics.divergence import entropy, histogram, jensen_shannon, sampling_floor, total_variation
from vadd.metrics.frechet import Classifier, Gaussian, digit_features, frechet_distance, gaussian, train_classifier
from vadd.metrics.neighbours import features, neighbours
from vadd.metrics.statistics import marginal_error, mutual_information, pairwise_error, pairwise_mi_error
from vadd.metrics.summary import least_p, mean_and_error, paired_difference, paired_examples
from vadd.metrics.text import distinct, mauve, overlap, padded_perplexity, perplexity, repetition, unigram_entropy
from vadd.metrics.two_sample import energy_test

__all__ = [
    "Classifier",
    "Gaussian",
    "digit_features",
    "distinct",
    "energy_test",
    "entropy",
    "features",
    "frechet_distance",
    "gaussian",
    "histogram",
    "jensen_shannon",
    "least_p",
    "marginal_error",
    "mauve",
    "mean_and_error",
    "mutual_information",
    "neighbours",
    "overlap",
    "padded_perplexity",
    "paired_difference",
    "paired_examples",
    "pairwise_error",
    "pairwise_mi_error",
    "perplexity",
    "repetition",
    "sampling_floor",
    "total_variation",
    "train_classifier",
    "unigram_entropy",
]
