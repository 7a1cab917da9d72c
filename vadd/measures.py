"""What the measures are called, in which units they are and which end is better: one table for evaluations, comparisons and
pages. How they are computed is in `vadd.metrics`. Nothing here imports torch."""

from dataclasses import dataclass

__all__ = ["MAIN", "METRICS", "Metric"]


@dataclass(frozen=True)
class Metric:
    """How a measure is called and what it means.

    `short` is its name within a sentence; `better` is "lower", "higher", or None where that is not known.
    """

    label: str
    short: str
    unit: str = ""
    better: str | None = None
    about: str = ""
    floor: str = "The same measure with true data in place of samples."

    @property
    def direction(self) -> str:
        return f"{self.better} is better" if self.better else ""


METRICS = {  # the main measures first: this is the order of the page
    "nelbo": Metric(
        "Negative log-likelihood bound (NELBO)",
        "NELBO",
        "nats",
        "lower",
        "An upper bound on −log p(x) of the sampler of this many steps, averaged over held-out data, in "
        "nats per example. It charges a method for the correlations it loses by revealing many tokens at once.",
        "The entropy of the data, where it is known: no model has a lower expected value.",
    ),
    "bpd": Metric(
        "NELBO per dimension",
        "NELBO per dimension",
        "bits",
        "lower",
        "The same bound in bits for each position of an example.",
        "",
    ),
    "gen_ppl": Metric(
        "Generative perplexity",
        "generative perplexity",
        "",
        "lower",
        "Perplexity of the samples under another model, the scorer: exp of its nats over its tokens, of all samples "
        "together, each decoded, cut at its first end, and retokenised by the scorer. Repetitive text scores well, so read "
        "it beside the entropy.",
    ),
    "entropy": Metric(
        "Entropy of the samples",
        "entropy of the samples",
        "nats",
        None,
        "Nats per token of each sample's own unigram distribution, padding left out, averaged over samples. Best is that "
        "of true text; below it, a low generative perplexity is come by cheaply.",
    ),
    "ppl": Metric(
        "Perplexity bound",
        "perplexity bound",
        "",
        "lower",
        "exp of the NELBO of the held-out texts over the number of their tokens, padding not counted: an upper bound on "
        "the perplexity of the sampler of this many steps.",
        "",
    ),
    "ppl_valid": Metric(
        "Perplexity bound, validation part",
        "perplexity bound, valid",
        "",
        "lower",
        "The same of as many texts of the validation part.",
        "",
    ),
    "gap": Metric(
        "NELBO above the exact −log p",
        "gap",
        "nats",
        "lower",
        "The bound minus the exact −log p(x) of the same held-out examples, where the law of the data is known: a bound on "
        "KL(data ‖ model), without the error of which examples were held out.",
    ),
    "js": Metric(
        "Jensen–Shannon divergence",
        "JS divergence",
        "nats",
        "lower",
        "Between the exact law of the data and the histogram of the samples; the divergence itself, not its root. "
        "From 0 (equal) to log 2 = 0.693 nats (nothing in common).",
        "The divergence that equally many true samples have, by chance alone.",
    ),
    "feature_distance": Metric(
        "Fréchet feature distance",
        "Fréchet distance",
        "",
        "lower",
        "Fréchet distance between samples and training data in the features of a small classifier trained on the "
        "training labels. Comparable only between models judged by the same classifier.",
        "The distance between held-out and training data.",
    ),
    "fid": Metric(
        "Fréchet distance (FID)",
        "Fréchet distance",
        "",
        "lower",
        "Fréchet distance between samples and training data in the features that are named at the head of this page. "
        "Comparable only with values in the same features, from as many samples.",
        "The distance between as many held-out examples and the training data.",
    ),
    "pairwise_error": Metric(
        "Error of pairs",
        "error of pairs",
        "",
        "lower",
        "Total variation between samples and held-out data for the joint law of two positions, averaged over pairs: it "
        "sees broken correlations. From 0 to 1.",
    ),
    "mi_error": Metric(
        "Error of mutual information",
        "error of mutual information",
        "nats",
        "lower",
        "Absolute difference of the mutual information I(xᵢ; xⱼ) of two positions between samples and data, averaged "
        "over pairs: correlations that are too weak or too strong, wherever the single positions lie. 0 is perfect.",
    ),
    "marginal_error": Metric(
        "Error of single positions",
        "error of single positions",
        "",
        "lower",
        "Total variation between samples and held-out data for one position, averaged over positions. From 0 to 1; "
        "blind to correlations.",
    ),
    "tv": Metric(
        "Total variation",
        "total variation",
        "",
        "lower",
        "Half the summed absolute difference between the exact law and the histogram of the samples. From 0 to 1.",
        "The total variation that equally many true samples have, by chance alone.",
    ),
    "total_correlation": Metric(
        "Total correlation within steps",
        "total correlation",
        "nats",
        None,
        "What it is worth to a method that z couples the tokens revealed in one step: its NELBO if each token were drawn "
        "by itself, z averaged away, less its NELBO. Near 0 the latent couples nothing; the data offer what an ideal "
        "masked diffusion's NELBO exceeds their entropy by, less with more steps. A difference of two estimates, not a "
        "score.",
        "",
    ),
    "ppl_padded": Metric(
        "Perplexity bound, padding counted",
        "perplexity bound with padding",
        "",
        "lower",
        "exp of the NELBO of the held-out texts over all their positions: padding, which is nearly free, counts as tokens. "
        "Comparable only between texts padded alike.",
        "",
    ),
    "gen_tokens": Metric(
        "Tokens scored",
        "tokens scored",
        "tokens",
        None,
        "How many tokens of a sample the generative perplexity counts, on average: up to its first end.",
    ),
    "repetition": Metric(
        "Repetition",
        "repetition",
        "",
        None,
        "The share of a sample's runs of four tokens that occurred before in it, averaged over samples. Best is that of "
        "true text.",
    ),
    "distinct_1": Metric(
        "Distinct tokens",
        "distinct tokens",
        "",
        None,
        "Different tokens over tokens, of all samples together. Best is that of as much true text.",
    ),
    "distinct_2": Metric(
        "Distinct pairs",
        "distinct pairs",
        "",
        None,
        "Different runs of two tokens over all runs, of all samples together. Best is that of as much true text.",
    ),
    "distinct_3": Metric(
        "Distinct triples",
        "distinct triples",
        "",
        None,
        "Different runs of three tokens over all runs, of all samples together. Best is that of as much true text.",
    ),
    "overlap_4": Metric(
        "Overlap with the training text",
        "overlap",
        "",
        None,
        "The share of the samples' runs of four tokens that occur in the training text, the first 20 million tokens of it. "
        "Above that of held-out text it is memorisation.",
        "The same share for held-out text.",
    ),
    "precision": Metric(
        "Precision", "precision", "", "higher", "Share of samples that lie among the neighbours of held-out data."
    ),
    "recall": Metric(
        "Recall", "recall", "", "higher", "Share of held-out data that lie among the neighbours of samples."
    ),
    "density": Metric(
        "Density",
        "density",
        "",
        "higher",
        "In how many neighbourhoods of held-out data a sample lies, relative to what is expected; can exceed 1.",
    ),
    "coverage": Metric(
        "Coverage", "coverage", "", "higher", "Share of held-out data that have a sample in their neighbourhood."
    ),
    "confidence": Metric(
        "Confidence of the classifier",
        "confidence",
        "",
        "higher",
        "Probability of the class that the classifier of the features thinks the likeliest, averaged over samples: low "
        "where samples are of no class. A single class, well drawn, has it too.",
    ),
    "class_gap": Metric(
        "Error of classes",
        "error of classes",
        "",
        "lower",
        "Total variation between the shares of the classes that the classifier sees in samples and in training data.",
    ),
}
MAIN = ("nelbo", "gen_ppl", "entropy", "ppl", "ppl_valid", "js", "feature_distance", "fid", "pairwise_error")
