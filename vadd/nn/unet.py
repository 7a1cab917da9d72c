"""The UNet for images of tokens: that of Variational Diffusion Models (Kingma et al. 2021, arXiv 2107.00630), which MD4
(Shi et al. 2024, arXiv 2406.04329) took to discrete pixels.

    tokens (B, C, H, W)  ->  embeddings, colours concatenated  ->  conv                                    h_0
    n ResBlocks down                                    h_k = block(h_{k-1}, t)                            h_1 .. h_n
    ResBlock, attention over all pixels, ResBlock       h = ...(h_n, t)
    n + 1 ResBlocks up, over the same features again    h = block([h + W_k e(z), h_k], t),  k = n .. 0
    GroupNorm, SiLU, conv                               logits of every colour of every pixel

All features have one width and, with `down = 0` as in those papers, all are as fine as the image: a pixel's value is a
token, and nothing may blur it. `down` halvings, after which the blocks are shared out evenly over the resolutions, are
for small machines; h_k then has the resolution of its level, and h is brought to it by repeating pixels. Any H and W will
do: an odd side is halved upwards.

One vector that is added to all pixels cannot say where. With `map` > 0 z is also that many numbers a pixel, which an MLP
makes of it and the first convolution reads; and as an average over pixels has forgotten where, the recognition is then an
MLP too (`vadd.build`).

`recompute` keeps of a block only its inputs, and computes it again in the backward pass.

There is no embedding of the position; convolutions know it from the zeros beyond the border.

The second convolution of a block, the projection of the attention and the output start at zero, as does what time adds:
at first a block is the identity (going up, a random projection of h and its skip) and the model is uniform. Other weights
start with variance 1/inputs, which holds the scale of h through any number of projections.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vadd.errors import InputError
from vadd.nn.layers import TimeFeatures, Tokens, labels_to, log_steps, prior_of

__all__ = ["UNetDenoiser", "UNetRecognition"]

TIME_FEATURES = 128
WIDE = 256  # of the MLP that makes z a map


def conv(inputs: int, outputs: int, size: int = 3, *, zero: bool = False) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, size, padding=size // 2)
    nn.init.normal_(layer.weight, std=0.0 if zero else (inputs * size**2) ** -0.5)
    nn.init.zeros_(layer.bias)
    return layer


def linear(inputs: int, outputs: int, *, bias: bool = True, zero: bool = False) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias)
    nn.init.normal_(layer.weight, std=0.0 if zero else inputs**-0.5)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def group_norm(channels: int) -> nn.GroupNorm:
    """As many groups as divide the channels, up to 32, of no fewer than four channels: from a channel that is normalised
    alone, all that time and z add to it would be subtracted again."""
    groups = max((g for g in range(1, 33) if channels % g == 0 and channels // g >= 4), default=1)
    return nn.GroupNorm(groups, channels)


class ResBlock(nn.Module):
    """h + conv dropout SiLU norm (conv SiLU norm h + W condition). Where the width changes h passes a 1x1 convolution."""

    def __init__(self, inputs: int, outputs: int, condition: int, dropout: float):
        super().__init__()
        self.first = nn.Sequential(group_norm(inputs), nn.SiLU(), conv(inputs, outputs))
        if condition:
            self.condition = linear(condition, outputs, bias=False, zero=True)
        self.second = nn.Sequential(
            group_norm(outputs), nn.SiLU(), nn.Dropout(dropout), conv(outputs, outputs, zero=True)
        )
        self.shortcut = nn.Identity() if inputs == outputs else conv(inputs, outputs, 1)

    def forward(self, h: Tensor, condition: Tensor | None = None) -> Tensor:
        inner = self.first(h)
        if condition is not None:
            inner = inner + self.condition(condition)[:, :, None, None]
        return self.shortcut(h) + self.second(inner)  # (B, outputs, H, W)


class Attention(nn.Module):
    """h + W softmax(Q Kᵀ/√d) V over all pixels, Q, K and V linear in GroupNorm(h)."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = group_norm(channels)
        self.qkv = conv(channels, 3 * channels, 1)
        self.out = conv(channels, channels, 1, zero=True)

    def forward(self, h: Tensor) -> Tensor:
        qkv = self.qkv(self.norm(h)).flatten(2).unflatten(1, (3 * self.heads, -1)).mT  # (B, 3 heads, HW, d)
        attended = F.scaled_dot_product_attention(*qkv.chunk(3, dim=1))
        return h + self.out(attended.mT.reshape(h.shape))  # (B, channels, H, W)


class UNet(nn.Module):
    """What is known of each pixel (B, inputs, H, W) -> features (B, channels, H, W), normalised and activated.

    `condition` and `latent` are the widths of what is added in every block, and in every block up; 0 for nothing.
    """

    def __init__(
        self,
        inputs: int,
        *,
        channels: int,
        blocks: int,
        condition: int,
        latent: int,
        dropout: float,
        heads: int,
        down: int,
        recompute: bool,
    ):
        super().__init__()
        self.recompute = recompute
        if not 0 <= down < blocks:
            raise InputError(f"down must be from 0 to {blocks - 1}, less than the {blocks} blocks, got {down}")
        if channels % heads:
            raise InputError(f"heads must divide the {channels} channels, got {heads}")

        def block(inputs: int) -> ResBlock:
            return ResBlock(inputs, channels, condition, dropout)

        level = [k * (down + 1) // blocks for k in range(blocks)]
        self.halves = [k > 0 and level[k] > level[k - 1] for k in range(blocks)]  # before which blocks down
        self.enter = conv(inputs, channels)
        self.down = nn.ModuleList(block(channels) for _ in range(blocks))
        self.middle = nn.ModuleList([block(channels), block(channels)])
        self.attention = Attention(channels, heads)
        self.up = nn.ModuleList(block(2 * channels) for _ in range(blocks + 1))
        if latent:
            self.enter_latent = nn.ModuleList(linear(latent, channels, bias=False) for _ in range(blocks + 1))
        self.exit = nn.Sequential(group_norm(channels), nn.SiLU())

    def apply_block(self, block: nn.Module, *inputs: Tensor | None) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)  # dropout draws the same again
        return block(*inputs)

    def forward(self, embedded: Tensor, condition: Tensor | None = None, latent: Tensor | None = None) -> Tensor:
        h = self.enter(embedded)
        skips = [h]
        for block, halve in zip(self.down, self.halves, strict=True):
            h = self.apply_block(block, F.avg_pool2d(h, 2, ceil_mode=True) if halve else h, condition)
            skips.append(h)
        h = self.apply_block(self.middle[0], h, condition)
        h = self.apply_block(self.middle[1], self.apply_block(self.attention, h), condition)
        for k, block in enumerate(self.up):
            skip = skips.pop()
            if latent is not None:
                h = h + self.enter_latent[k](latent)[:, :, None, None]
            if h.shape != skip.shape:
                h = F.interpolate(h, skip.shape[-2:])  # nearest
            h = self.apply_block(block, torch.cat([h, skip], dim=1), condition)
        return self.exit(h)


def colours(shape: tuple[int, ...]) -> int:
    """C of an image (C, H, W), 1 of (H, W)."""
    if len(shape) not in (2, 3):
        raise InputError(f"a UNet needs images of shape (H, W) or (C, H, W), got {tuple(shape)}; use an MLP")
    return 1 if len(shape) == 2 else shape[0]


def mlp(inputs: int, channels: int) -> nn.Sequential:
    return nn.Sequential(linear(inputs, 4 * channels), nn.SiLU(), linear(4 * channels, channels), nn.SiLU())


def number(channels: int) -> nn.Sequential:
    """t, or log T, to a condition."""
    return nn.Sequential(TimeFeatures(TIME_FEATURES), *mlp(TIME_FEATURES, channels))


class UNetDenoiser(nn.Module):
    """Logits (B, *shape, V) of every pixel's every colour. Asks once, for z of `latent_dim` numbers, or never if that is 0.

    The colours share one table of embeddings, V tokens and the mask, of `embedding` numbers (by default `channels`): the
    first convolution reads each colour with weights of its own.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        vocab_size: int,
        latent_dim: int = 0,
        *,
        channels: int = 128,
        blocks: int = 32,
        dropout: float = 0.1,
        heads: int = 1,
        down: int = 0,
        recompute: bool = False,
        steps: bool = False,
        classes: int = 0,
        map: int = 0,
        embedding: int | None = None,
        levels: bool = False,
        prior: str = "standard",
        components: int = 64,
    ):
        super().__init__()
        self.shape, self.vocab_size, self.colours = tuple(shape), vocab_size, colours(shape)
        self.latents = ((latent_dim,),) if latent_dim else ()
        embedding = embedding or channels

        self.embed = Tokens(vocab_size, embedding, levels)
        self.time = number(channels)
        self.reads_steps, self.classes = steps, classes
        if steps:
            self.steps = number(channels)
        if classes:
            self.label = labels_to(channels, classes)
        if latent_dim:
            # One MLP reads z; a linear map for each block up then tells that block what it wants of it. The same vector
            # everywhere would have to suit the features of every depth; the maps are 2% of the parameters.
            self.latent = mlp(latent_dim, channels)
            self.prior = prior_of(prior, self.latents[0], components=components, vocab_size=vocab_size, width=0)
        self.map = map if latent_dim else 0
        if self.map:
            pixels = math.prod(shape[-2:])
            self.mapped = nn.Sequential(linear(latent_dim, WIDE), nn.SiLU(), linear(WIDE, pixels * map))
        self.unet = UNet(
            self.colours * embedding + self.map,
            channels=channels,
            blocks=blocks,
            condition=channels,
            latent=channels if latent_dim else 0,
            dropout=dropout,
            heads=heads,
            down=down,
            recompute=recompute,
        )
        self.out = conv(channels, self.colours * vocab_size, zero=True)

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        draw: Callable[..., Tensor] | None = None,
        at: Tensor | None = None,
        steps: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        image = x_t.reshape(len(x_t), self.colours, *self.shape[-2:])
        pixels = self.embed(image).movedim(-1, 2).flatten(1, 2)  # (B, C E, H, W)
        condition, latent = self.time(t), None
        if self.reads_steps:
            condition = condition + self.steps(log_steps(steps))
        if self.classes:
            condition = condition + self.label(labels)
        if self.latents:
            z = draw(self.prior(len(x_t)))
            latent = self.latent(z)
            if self.map:
                pixels = torch.cat([pixels, self.mapped(z).view(len(x_t), self.map, *image.shape[2:])], 1)
        h = self.unet(pixels, condition, latent)
        logits = self.out(h).unflatten(1, (self.colours, self.vocab_size)).movedim(2, -1)  # (B, C, H, W, V)
        logits = logits.reshape(*x_t.shape, self.vocab_size)
        return logits if at is None else logits[at]  # the output layer is 3% of the work: all of it is always done


class UNetRecognition(nn.Module):
    """(x, M) -> features (B, channels): the UNet's, averaged over the masked positions M; zeros if M is empty.

    Each position gives the embedding of its token plus, where it is masked, that of the mask bit. A pixel with several
    masked colours counts that many times. The time is not read: M tells all that x_t adds to x. T is, with
    `steps`. (`classes` is the denoiser's: x tells its class.)
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        vocab_size: int,
        *,
        channels: int = 128,
        blocks: int = 32,
        dropout: float = 0.1,
        heads: int = 1,
        down: int = 0,
        recompute: bool = False,
        steps: bool = False,
        classes: int = 0,
        embedding: int | None = None,
        levels: bool = False,
    ):
        super().__init__()
        self.features, self.shape, self.colours = channels, tuple(shape), colours(shape)
        self.reads_steps = steps
        if steps:
            self.steps = number(channels)
        embedding = embedding or channels
        self.embed = Tokens(vocab_size, embedding, levels)
        with torch.no_grad():
            self.embed.weight[vocab_size].zero_()  # a token hidden from the recognition says nothing
        self.embed_mask = nn.Parameter(torch.randn(embedding))
        self.unet = UNet(
            self.colours * embedding,
            channels=channels,
            blocks=blocks,
            condition=channels if steps else 0,
            latent=0,
            dropout=dropout,
            heads=heads,
            down=down,
            recompute=recompute,
        )

    def forward(self, x: Tensor, masked: Tensor, t: Tensor, steps: Tensor | None = None) -> Tensor:
        condition = self.steps(log_steps(steps)) if self.reads_steps else None
        image, bit = (a.reshape(len(x), self.colours, *self.shape[-2:]) for a in (x, masked))
        pixels = self.embed(image) + self.embed_mask * bit[..., None]
        h = self.unet(pixels.movedim(-1, 2).flatten(1, 2), condition)  # (B, channels, H, W)
        count = bit.sum(1, keepdim=True).to(h.dtype)  # |M| of each pixel, (B, 1, H, W)
        return (h * count).sum((2, 3)) / count.sum((2, 3)).clamp(min=1)  # (B, channels)
