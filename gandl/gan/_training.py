"""The training step: one discriminator learns from the adversarial game and contrast.

Nothing here reads files or knows scikit-learn: batches of images come in, losses come
out, and ``state`` is all that a later step depends on.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from gandl.gan._augment import adaptive_augment, dihedral, random_view
from gandl.gan._config import GANConfig
from gandl.gan._discriminator import BAND_GAINS, Discriminator
from gandl.gan._layers import EqualLinear, at_least_float32, leaky_relu
from gandl.gan._losses import (
    contrastive_loss,
    decorrelation_penalty,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    path_length_penalty,
    squared_gradient,
)
from gandl.gan._ranks import ALONE, GROUP, Ranks, SharedGenerator, rand

T = TypeVar("T")

# Of the penalty beside the contrastive loss.
DECORRELATION = 0.02


class ContrastHead(nn.Module):
    """Projection (N, 256) of a map's mean and maximum over positions, two layers."""

    def __init__(self, rng: torch.Generator, width: int) -> None:
        super().__init__()
        self.hidden = EqualLinear(rng, 2 * width, width)
        self.projection = EqualLinear(rng, width, 256)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)
        return self.projection(leaky_relu(self.hidden(x)))


class Trainer:
    """Both networks, their optimisers, and the step that trains them.

    Parameters
    ----------
    config : GANConfig
        Networks and constants.
    seed : int
        Seeds the weights and every later draw.
    device : str or torch.device
        Where the networks live.
    dtype : torch.dtype
        Type of activations; weights, statistics and losses stay float32.
    ranks : Ranks
        The processes that train together, each on its share of every batch.

    See Also
    --------
    GANConfig : Its constants.

    Examples
    --------
    >>> import torch
    >>> from gandl.gan import GANConfig, Trainer
    >>> config = GANConfig(n_channels=2, size=32, channel_max=8, latent_dim=8)
    >>> trainer = Trainer(config, seed=0)
    >>> sorted(trainer.step(torch.zeros(4, 2, 32, 32)))
    ['contrast', 'discriminator', 'generator', 'r1']
    >>> trainer.n_images
    4
    """

    def __init__(
        self,
        config: GANConfig,
        seed: int,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        ranks: Ranks = ALONE,
    ) -> None:
        self.config, self.ranks = config, ranks
        self.device = torch.device(device)
        init = torch.Generator().manual_seed(seed)
        self.generator = config.generator(init).to(device)
        self.discriminator = config.discriminator(init).to(device)
        width = self.discriminator.block_widths[4]
        self.contrast_head = ContrastHead(init, width).to(device)
        for network in (self.generator, self.discriminator):
            network.dtype = dtype
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        # What is kept of the discriminator, and embeds.
        self.embedder = self.discriminator
        if config.average_discriminator:
            self.embedder = copy.deepcopy(self.discriminator).requires_grad_(False)
        # A seed of its own: latents are not to repeat the draws of the weights.
        own = int(torch.randint(2**62, (), generator=init))
        self.rng = SharedGenerator(ranks, self.device)
        self.rng.manual_seed(own)
        self.n_steps = 0
        self.n_images = 0
        self._augment_p: float | Tensor = config.augment or 0.0
        self.mean_path_length = torch.zeros((), device=device)
        # Falls where training had to be taken back.
        self.learning_rate_factor = 1.0
        self._signs: list[Tensor] = []
        self._make_optimizers()
        self._broken = torch.zeros(len(self.optimizers), device=device)
        self._n_broken = torch.zeros((), device=device)

    @property
    def _networks(self) -> dict[str, nn.Module]:
        names = ["generator", "discriminator", "contrast_head", "average"]
        if self.config.average_discriminator:
            names.append("embedder")
        return {name: getattr(self, name) for name in names}

    @property
    def augment_p(self) -> float:
        """Probability of augmentation in the game; a GPU is waited for."""
        return float(self._augment_p)

    @augment_p.setter
    def augment_p(self, p: float) -> None:
        self._augment_p = float(p)

    @property
    def _plays(self) -> bool:
        return self.n_steps % self.config.adversarial_interval == 0

    @property
    def _n_games(self) -> int:
        return self.n_steps // self.config.adversarial_interval

    @property
    def _is_lazy_r1(self) -> bool:
        return self.config.loss == "logistic" and self.config.r1_gamma > 0

    def _make_optimizers(self) -> None:
        config = self.config
        lr, discriminator = config.learning_rate, self.discriminator
        self.optimizers = {
            "generator": _adam(
                self.generator.parameters(),
                lr,
                interval=config.path_length_interval * (config.path_length_weight > 0),
            ),
            "discriminator": _adam(
                discriminator.parameters(),
                lr,
                interval=config.r1_interval * self._is_lazy_r1,
            ),
            # Moments of its own: the contrastive loss is smooth and wants momentum,
            # the adversarial game does not bear it.
            "contrast": _adam(
                [*_trunk(discriminator), *self.contrast_head.parameters()],
                config.contrast_learning_rate,
                beta1=0.9,
            ),
        }

    def step(self, real: Tensor) -> dict[str, Tensor]:
        """Take one step of both networks.

        Parameters
        ----------
        real : Tensor of shape (N, C, size, size)
            Real images from -1, dark, to 1, on the trainer's device; of several ranks,
            this one's share of the batch.

        Returns
        -------
        dict of str to Tensor
            Losses by name, as tensors that nobody has waited for.
        """
        scale = self.learning_rate_factor
        if self.n_steps < self.config.warm_up:
            scale *= (self.n_steps + 1) / self.config.warm_up
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * scale
        losses: dict[str, Tensor] = {}
        before = self._broken.sum()
        real = dihedral(real, self.rng)
        if self.config.contrast_learning_rate:
            losses["contrast"] = self._update_by_contrast(real)
        if self.config.adversarial_batch and self._plays:
            losses |= self._adversarial_step(real)
        if self.config.average_discriminator:
            self._update_embedder(len(real) * self.ranks.size)
        self._n_broken += self._broken.sum() > before
        self.n_steps += 1
        self.n_images += len(real) * self.ranks.size
        return losses

    def _update_by_contrast(self, real: Tensor) -> Tensor:
        loss = self._contrastive_loss(real)
        self._descend("contrast", loss)
        return loss.detach()

    def _descend(self, name: str, loss: Tensor) -> None:
        """Take a step, unless the loss or a gradient is not finite.

        Nobody waits for the answer: the optimiser reads it where it computes.
        """
        optimizer = self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        parameters = [p for g in optimizer.param_groups for p in g["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        of_all = loss.detach().clone()
        self.ranks.mean_([*gradients, of_all])
        length = torch.nn.utils.get_total_norm(gradients)
        broken = (~(of_all + length).isfinite()).float()
        optimizer.found_inf = broken  # type: ignore[attr-defined]
        optimizer.step()
        self._broken[[*self.optimizers].index(name)] += broken

    def dropped(self) -> tuple[int, list[str]]:
        """Tell what was dropped since `forget_dropped`.

        Returns
        -------
        int
            In how many steps.
        list of str
            By which optimisers, since their loss or gradients were not finite.
        """
        broken = zip(self.optimizers, self._broken.tolist(), strict=True)
        return int(self._n_broken), [name for name, count in broken if count]

    def forget_dropped(self) -> None:
        """Count dropped steps anew."""
        self._broken.zero_()
        self._n_broken.zero_()

    def is_finite(self) -> bool:
        """Tell whether all weights are finite.

        Returns
        -------
        bool
            Whether they are.
        """
        networks = self._networks.values()
        states = [w for n in networks for w in n.state_dict().values()]
        return bool(torch.stack([w.isfinite().all() for w in states]).all())

    def _adversarial_step(self, real: Tensor) -> dict[str, Tensor]:
        n_all = len(real) * self.ranks.size
        n = min(self.config.adversarial_batch, n_all) // self.ranks.size
        if n > GROUP and all(n % k for k in range(2, GROUP + 1)):
            n -= n % GROUP * (self.discriminator.stddev_group > 0)  # of 5 no groups
        ws = self.generator.styles(
            n, self.rng, mixing=self.config.style_mixing, step=self._n_games
        )
        fake = self.generator.synthesize(ws, self.rng)
        fake_seen = adaptive_augment(fake, self._augment_p, self.rng)
        real_seen = adaptive_augment(real[:n], self._augment_p, self.rng)
        losses = self._update_discriminator(real_seen, fake_seen.detach())
        # The same generated images serve the generator: its weights have not moved.
        losses["generator"] = self._update_generator(fake_seen, real_seen)
        self._update_average(n_all * self.config.adversarial_interval)
        self._agree(losses)
        if self.config.augment is None and self._n_games % 4 == 3:
            self._adapt_augmentation(4 * n * self.ranks.size)
        return losses

    def _update_discriminator(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        config = self.config
        loss = self._discriminator_loss(real, fake)
        self._descend("discriminator", loss)
        losses = {"discriminator": loss.detach()}
        if self._is_lazy_r1 and self._n_games % config.r1_interval == 0:
            penalty = self._r1(real)
            self._descend("discriminator", penalty * config.r1_interval)
            losses["r1"] = penalty.detach()
        return losses

    def _discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        network, kind = self.discriminator, self.config.loss
        if kind == "r3gan":
            real, fake = real.requires_grad_(), fake.requires_grad_()
        maps = network.trunk(torch.cat([real, fake]))[-1]
        # Real and generated images never share a group of the minibatch statistic.
        real_maps, fake_maps = maps.chunk(2)
        network.track_stddev(real_maps, self._n_games)
        real_logits, fake_logits = network.head(real_maps), network.head(fake_maps)
        if self.config.augment is None:
            self._signs.append(real_logits.detach().sign().mean())
        loss = discriminator_loss(kind, real_logits, fake_logits)
        if kind == "r3gan":
            r1 = squared_gradient(real_logits, real).mean()
            r2 = squared_gradient(fake_logits, fake).mean()
            loss = loss + self.config.r1_gamma / 2 * (r1 + r2)
        if kind == "wgan-gp":
            share = rand((len(real), 1, 1, 1), self.rng, real.device)
            between = torch.lerp(real, fake, share).requires_grad_()
            loss = loss + 10 * gradient_penalty(network(between), between)
        return loss

    def _contrastive_loss(self, real: Tensor) -> Tensor:
        views = torch.cat([random_view(real, self.rng), random_view(real, self.rng)])
        strength = None
        if self.config.detail:
            # Both have the spectrum of one photograph, by whose finest bands they would
            # find each other without a look at the cells. On average, as embedded: 1.
            shape = (2, len(real), len(BAND_GAINS), 1, 1)
            strength = 2 * rand(shape, self.rng, real.device, dim=1).flatten(0, 1)
        maps = self.discriminator.trunk(views, strength=strength)
        projected = self.contrast_head(maps[-1])
        first, second = at_least_float32(projected).chunk(2)
        # Each view is compared with those of all ranks.
        first, second = self.ranks.gather(first), self.ranks.gather(second)
        # A few features tell images apart: without this, the others repeat them.
        penalty = decorrelation_penalty(torch.cat([first, second]))
        return contrastive_loss(first, second) + DECORRELATION * penalty

    def _r1(self, real: Tensor) -> Tensor:
        real = real.detach().requires_grad_()
        penalty = squared_gradient(self.discriminator(real), real).mean()
        return self.config.r1_gamma / 2 * penalty

    def _update_generator(self, fake: Tensor, real: Tensor) -> Tensor:
        config = self.config
        self.discriminator.requires_grad_(False)
        real_logits = None
        if config.loss == "r3gan":
            with torch.no_grad():
                real_logits = self.discriminator(real)
        loss = generator_loss(config.loss, self.discriminator(fake), real_logits)
        self._descend("generator", loss)
        self.discriminator.requires_grad_(True)
        if (
            config.path_length_weight
            and self._n_games % config.path_length_interval == 0
        ):
            penalty = self._path_length(max(1, len(fake) // 2))
            weight = config.path_length_weight * config.path_length_interval
            self._descend("generator", penalty * weight)
        return loss.detach()

    def _path_length(self, n: int) -> Tensor:
        ws = self.generator.styles(n, self.rng, mixing=self.config.style_mixing)
        images = self.generator.synthesize(ws, self.rng)
        penalty, self.mean_path_length = path_length_penalty(
            images, ws, self.mean_path_length, self.rng, self.ranks
        )
        return penalty

    @torch.no_grad()
    def _update_average(self, n: int) -> None:
        half_life = min(self.config.ema_kimg * 1000 * n / 32, 0.05 * self.n_images)
        approach(self.average, self.generator, n, half_life)
        self.average.mapping.mean_style.copy_(self.generator.mapping.mean_style)

    @torch.no_grad()
    def _update_embedder(self, n: int) -> None:
        approach(self.embedder, self.discriminator, n, 0.02 * self.n_images)
        self.embedder.mean_stddev.copy_(self.discriminator.mean_stddev)

    def _agree(self, losses: dict[str, Tensor]) -> None:
        """Average over ranks what each has measured on its own images."""
        statistics = [
            self.discriminator.mean_stddev,
            self.generator.mapping.mean_style,
            self.average.mapping.mean_style,
        ]
        self.ranks.mean_([*statistics, *losses.values(), *self._signs[-1:]])

    def _adapt_augmentation(self, n: int) -> None:
        mean = torch.stack(self._signs).mean()
        self._signs.clear()
        change = n / (self.config.augment_kimg * 1000)
        # On a GPU a tensor, for which nobody waits.
        sign = mean.item() if self.device.type == "cpu" else mean
        p = self._augment_p + change * (2 * (sign > 0.6) - 1)
        bounded = p.clamp(0, 1) if isinstance(p, Tensor) else min(max(p, 0.0), 1.0)
        self._augment_p = bounded

    def weights(self) -> dict[str, Tensor]:
        """Return what embedding and generating need.

        Returns
        -------
        dict of str to Tensor
            Weights of the discriminator, or of its moving average, and of the
            generator's, by names that start with "discriminator." and "generator.".
        """
        networks = {"discriminator": self.embedder, "generator": self.average}
        return {
            f"{name}.{key}": weight
            for name, network in networks.items()
            for key, weight in network.state_dict().items()
        }

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Continue from weights; the optimisers start anew.

        Parameters
        ----------
        weights : dict of str to Tensor
            What `weights` returned.
        """
        for name, networks in {
            "discriminator": (self.discriminator, self.embedder),
            "generator": (self.generator, self.average),
        }.items():
            for network in networks:
                network.load_state_dict(under(name, weights))

    def state(self) -> dict[str, Any]:
        """Return all that a later step depends on.

        Returns
        -------
        dict
            Nested dicts and lists of tensors and numbers, not copied.
        """
        return {
            **{name: n.state_dict() for name, n in self._networks.items()},
            "optimizers": {k: v.state_dict() for k, v in self.optimizers.items()},
            "rng": self.rng.get_state(),
            "device": self.device.type,
            "mean_path_length": self.mean_path_length,
            "signs": list(self._signs),
            "n_steps": self.n_steps,
            "n_images": self.n_images,
            "augment_p": self.augment_p,
            "learning_rate_factor": self.learning_rate_factor,
            "broken": self._broken,
            "n_broken": self._n_broken,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from a state, bit for bit if it comes from a device of this type.

        Parameters
        ----------
        state : dict
            What `state` returned; it is copied.
        """
        state = copy.deepcopy(state)
        for name, network in self._networks.items():
            network.load_state_dict(state[name])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.mean_path_length = state["mean_path_length"].to(self.device)
        self._signs = [sign.to(self.device) for sign in state["signs"]]
        if state["device"] == self.device.type:
            self.rng.set_state(state["rng"].cpu())
        self.n_steps, self.n_images = state["n_steps"], state["n_images"]
        self.augment_p = state["augment_p"]
        self.learning_rate_factor = state["learning_rate_factor"]
        self._broken = state["broken"].to(self.device)
        self._n_broken = state["n_broken"].to(self.device)


def _adam(
    parameters: Any, learning_rate: float, *, beta1: float = 0.0, interval: int = 0
) -> torch.optim.Adam:
    """Adam; with a penalty step every ``interval`` steps, its constants adjusted."""
    c = interval / (interval + 1) if interval else 1.0
    # Fused: a third of the time, and the only one that can drop a step unasked.
    optimizer = torch.optim.Adam(
        parameters, lr=learning_rate * c, betas=(beta1**c, 0.99**c), fused=True
    )
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def approach(average: nn.Module, network: nn.Module, n: int, half_life: float) -> None:
    """Move an average of weights by ``n`` images; ``half_life`` is in images."""
    share = 1 - 0.5 ** (n / max(half_life, 1e-8))
    ours, theirs = ([*part.parameters()] for part in (average, network))
    for weight, new in zip(ours, theirs, strict=True):
        weight.lerp_(new, share)


def _trunk(network: Discriminator) -> list[nn.Parameter]:
    return [*network.from_image.parameters(), *network.blocks.parameters()]


def under(prefix: str, weights: dict[str, T]) -> dict[str, T]:
    """Those whose names begin with a prefix and a dot, by the rest of their names."""
    start = prefix + "."
    return {k.removeprefix(start): v for k, v in weights.items() if k.startswith(start)}
