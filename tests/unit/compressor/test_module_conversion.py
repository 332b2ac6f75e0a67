"""A user's torch module becomes a file that boards accept, and that computes what torch does, for any number of copies.

Runs where litert-torch is installed: `make test-convert`, in an environment of its own.
"""

import importlib.util
import os
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import pytest
import torch
from msgspec import to_builtins
from torch import Tensor, nn
from torch.nn import functional

from compressor import CompressionRecipe, InvalidPolicyError, UnsupportedPolicyError
from compressor.conversion import ConvertedModule, MissingConverterError, convert_module
from compressor.recipe import float16, float32, int8_dynamic
from edge_actor.checker import check
from edge_actor.checker_messages import CheckPolicy
from edge_actor.policy import Policy
from fleet_protocol.messages import RunSpec
from fleet_protocol.spaces import BoxSpec, DiscreteSpec

RUN: Final = RunSpec(run_id="r", generation=1, env_id="X-v0", unroll_length=8)
WIDTH: Final = 6
IMAGE: Final = (21, 17, 3)
ACTIONS: Final = 3

if importlib.util.find_spec("litert_torch") is None and not os.environ.get("EDGERL_TEST_CONVERT"):
    pytest.skip("litert-torch is not installed here: make test-convert", allow_module_level=True)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.inner = nn.LayerNorm(48), nn.Linear(48, 48)

    def forward(self, x: Tensor) -> Tensor:
        return x + functional.gelu(self.inner(self.norm(x)))


class Pieces(nn.Module):
    """Slices, its own normalisation, a layer without bias, and a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.linspace(-1, 1, WIDTH))
        self.left, self.right = nn.Linear(2, 32, bias=False), nn.Linear(WIDTH - 2, 32)
        self.head, self.value = nn.Linear(64, ACTIONS), nn.Linear(64, 1)

    def forward(self, x: Tensor) -> Tensor:
        seen = ((x - self.shift) / 1.5).clamp(-3, 3)
        both = torch.cat([functional.silu(self.left(seen[:, :2])), self.right(seen[:, 2:]).sigmoid()], dim=-1)
        advantage = self.head(both)
        return self.value(both) + advantage - advantage.mean(dim=-1, keepdim=True)


class Reshaped(nn.Module):
    """Two rows of features per observation, so that one axis is twice the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(WIDTH // 2, 8), nn.Linear(16, ACTIONS)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(x.view(x.shape[0], 2, WIDTH // 2)).tanh().reshape(x.shape[0], -1))


class Grey(nn.Module):
    """One channel of three."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=1, keepdim=True)


class Images(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.permute(0, 3, 1, 2) / 255)


def dense(*activations: nn.Module) -> nn.Module:
    layers: list[nn.Module] = [nn.Linear(WIDTH, 48)]
    for activation in activations:
        layers += [activation, nn.Linear(48, 48)]
    return nn.Sequential(*layers, nn.Tanh(), nn.Linear(48, ACTIONS))


VECTORS: Final[dict[str, Callable[[], nn.Module]]] = {
    "mlp": lambda: dense(nn.Tanh(), nn.ReLU()),
    "layer norm, gelu, residual": lambda: nn.Sequential(nn.Linear(WIDTH, 48), Block(), Block(), nn.Linear(48, ACTIONS)),
    "elu, leaky relu": lambda: dense(nn.ELU(0.7), nn.LeakyReLU(0.2)),
    "rms norm, batch norm, dropout": lambda: dense(nn.RMSNorm(48), nn.Sequential(nn.BatchNorm1d(48), nn.Dropout())),
    "relu6, tanh-gelu, hardtanh": lambda: dense(nn.ReLU6(), nn.GELU("tanh"), nn.Hardtanh()),
    "slices, silu, sigmoid, clamp, mean": Pieces,
    "rows within an observation": Reshaped,
}
IMAGES: Final[dict[str, Callable[[], nn.Module]]] = {
    "valid, flatten": lambda: Images(
        *(nn.Conv2d(3, 16, 5, 2), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ELU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(16 * 3 * 2, 32), nn.Tanh(), nn.Linear(32, ACTIONS)),
    ),
    "grey": lambda: Images(Grey(), nn.Conv2d(1, 16, 5, 2, 1), nn.ReLU(), nn.Flatten(), nn.LazyLinear(ACTIONS)),
    "padded, dilated, pooled by mean": lambda: Images(
        *(nn.Conv2d(3, 24, 3, 2, 1), nn.BatchNorm2d(24), nn.GELU(), nn.Conv2d(24, 24, 3, padding=2, dilation=2)),
        *(nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, ACTIONS)),
    ),
}


def converted(module: nn.Module, *, is_image: bool = False, heads: Mapping[str, int] | None = None) -> ConvertedModule:
    return convert_module(
        module,
        observation_shape=IMAGE if is_image else (WIDTH,),
        dtype="uint8" if is_image else "float32",
        heads=heads or {"logits": ACTIONS},
    )


def written(made: ConvertedModule, recipe: CompressionRecipe, *, is_image: bool = False) -> bytes:
    is_discrete = "logits" in made.module.heads
    observation = BoxSpec(shape=IMAGE, dtype="uint8") if is_image else BoxSpec(shape=(WIDTH,), dtype="float32")
    action = DiscreteSpec(n=ACTIONS) if is_discrete else BoxSpec(shape=(ACTIONS,), dtype="float32")
    metadata = {
        "run_id": "r",
        "policy_version": 4,
        "head": "categorical" if is_discrete else "gaussian",
        "observation": to_builtins(observation),
        "action": to_builtins(action),
        "recipe": str(recipe),
    }
    return made.write(recipe, metadata=metadata).model


def act(model: bytes, observations: np.ndarray) -> list[np.ndarray]:
    """What a board's checker lets pass and its policy says, for all observations at once."""
    copies = len(observations)
    check(CheckPolicy(serial=1, version=4, run=RUN, copies=copies, model=model, good_us=0.0))
    policy = Policy(model, copies=copies)
    policy.observe(observations)
    policy.infer()
    return [output.copy() for output in policy.outputs]


@torch.no_grad()
def in_float64(module: nn.Module, observations: np.ndarray) -> np.ndarray:
    expected = module.double()(torch.from_numpy(observations.astype(np.float64))).numpy()
    module.float()
    return expected


def observe(copies: int, *, is_image: bool = False) -> np.ndarray:
    rng = np.random.default_rng(5)
    return rng.integers(0, 256, (copies, *IMAGE), np.uint8) if is_image else rng.standard_normal((copies, WIDTH), "f")


@pytest.mark.parametrize(("name", "is_image"), [*((n, False) for n in VECTORS), *((n, True) for n in IMAGES)])
def test_a_module_acts_on_a_board_as_in_torch_for_any_number_of_copies(name: str, is_image: bool):
    torch.manual_seed(0)
    module = (IMAGES if is_image else VECTORS)[name]().eval()
    module(torch.from_numpy(observe(1, is_image=is_image)).float())  # gives lazy layers their weights
    made = converted(module, is_image=is_image)
    files = {recipe: written(made, recipe, is_image=is_image) for recipe in (float32(), float16(), int8_dynamic())}
    for copies in (1, 2, 16):
        observations = observe(copies, is_image=is_image)
        expected = in_float64(module, observations)
        reach = np.ptp(in_float64(module, observe(64, is_image=is_image)))
        for recipe, share in ((float32(), 1e-5), (float16(), 2e-3), (int8_dynamic(), 0.03)):
            (logits,) = act(files[recipe], observations)
            assert np.abs(logits - expected).max() <= share * reach, (recipe, copies)
    assert len(files[int8_dynamic()]) < (0.45 if name == "mlp" else 1.01) * len(files[float32()])


class Gaussian(nn.Module):
    def __init__(self, log_std: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(WIDTH, 16), nn.Linear(16, ACTIONS)
        self.own = nn.Parameter(torch.linspace(-1, 0.5, ACTIONS))
        self.log_std = log_std

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        mean = self.head(self.body(x).tanh())
        return {"log_std": self.log_std(self, mean), "mean": mean}


@pytest.mark.parametrize(
    "log_std",
    [
        lambda module, _: module.own,
        lambda module, mean: module.own.clamp(-5, 0).expand_as(mean),
        lambda module, mean: (mean + module.own).clamp(-5, 2),
    ],
    ids=["a parameter", "a parameter of every row", "of the observation"],
)
def test_gaussian_heads_are_written_by_their_names(log_std: Callable[[nn.Module, Tensor], Tensor]):
    torch.manual_seed(1)
    module = Gaussian(log_std).eval()
    model = written(converted(module, heads={"mean": ACTIONS, "log_std": ACTIONS}), float32())
    for copies in (1, 16):
        observations = observe(copies)
        with torch.no_grad():
            expected = {key: each.detach() for key, each in module(torch.from_numpy(observations)).items()}
        mean, deviation = act(model, observations)
        assert np.abs(mean - expected["mean"].numpy()).max() < 1e-5
        assert np.abs(deviation - expected["log_std"].expand(copies, -1).numpy()).max() < 1e-5


class Computes(nn.Module):
    """A policy that computes one thing more."""

    def __init__(self, step: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.head, self.step = nn.Linear(WIDTH, ACTIONS), step

    def forward(self, x: Tensor) -> Any:
        return self.step(self.head(x))


def spoilt(value: float) -> nn.Module:
    module = dense(nn.ReLU())
    with torch.no_grad():
        module[2].weight[3, 5] = value
    return module


BAD: Final[dict[str, tuple[Callable[[], Any], type[Exception], str]]] = {
    "no module": (lambda: "policy.pt", InvalidPolicyError, "expected a torch.nn.Module with its weights, got str"),
    "NaN": (lambda: spoilt(float("nan")), InvalidPolicyError, "2.weight holds 1 of 2304 numbers that are not finite"),
    "doubles": (lambda: dense().double(), InvalidPolicyError, r"0.weight is torch.float64: call .float\(\)"),
    "lazy": (lambda: nn.LazyLinear(ACTIONS), InvalidPolicyError, "weight has no numbers yet"),
    "width": (lambda: nn.Linear(WIDTH, 5), InvalidPolicyError, r"gives logits of \[3, 5\].*need \[N, 3\]"),
    "names": (lambda: Computes(lambda x: {"q": x}), InvalidPolicyError, r"a dict of \['q'\]"),
    "a tuple": (
        lambda: Computes(lambda x: (x, x)),
        InvalidPolicyError,
        "a tensor of logits, and the module gives tuple",
    ),
    "integers": (lambda: Computes(lambda x: x.argmax(-1)), InvalidPolicyError, "gives logits as torch.int64"),
    "infinite": (lambda: Computes(lambda x: x / 0), InvalidPolicyError, "logits that are not finite"),
    "another input": (lambda: nn.Linear(4, ACTIONS), UnsupportedPolicyError, r"fails on float32 observations \[3, 6\]"),
    "random": (lambda: Computes(lambda x: x + torch.rand(1)), UnsupportedPolicyError, "leave the drawing to the board"),
    "batch": (lambda: Computes(lambda x: x - x.mean(0)), UnsupportedPolicyError, "depend on the others in the batch"),
    "baked": (
        lambda: Computes(lambda x: x + torch.tensor([[1.0, 2.0, 3.0]] * len(x))),
        UnsupportedPolicyError,
        "one number of observations only: take the batch from the tensor",
    ),
    "by value": (
        lambda: Computes(lambda x: x if x.sum() > 0 else x * 1.0),
        UnsupportedPolicyError,
        r"may not depend on the values.*|data-dependent",
    ),
    "unsupported": (
        lambda: nn.Sequential(nn.Linear(WIDTH, ACTIONS), nn.Softplus()),
        UnsupportedPolicyError,
        r"1 needs LOG, which boards do not have",
    ),
    "probabilities": (
        lambda: nn.Sequential(nn.Linear(WIDTH, ACTIONS), nn.LogSoftmax(-1)),
        UnsupportedPolicyError,
        "return logits, not probabilities",
    ),
    "constant": (lambda: Computes(torch.zeros_like), UnsupportedPolicyError, "logits do not depend on the observation"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_policy_is_named(name: str):
    make, kind, sentence = BAD[name]
    torch.manual_seed(0)
    with pytest.raises(kind, match=sentence):
        converted(make())


def test_a_grouped_convolution_is_named_with_its_layer():
    module = Images(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, groups=6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), dense())
    with pytest.raises(UnsupportedPolicyError, match=r"body\.1 needs DEPTHWISE_CONV_2D.*set groups=1"):
        converted(module, is_image=True)


@pytest.mark.parametrize("text", ["int8", "distill(8)+float32", "int8-dynamic+keep(body)"])
def test_a_recipe_that_only_our_networks_can_follow_is_refused(text: str):
    made = converted(nn.Linear(WIDTH, ACTIONS))
    with pytest.raises(UnsupportedPolicyError, match="convert with float32"):
        made.write(CompressionRecipe.parse(text), metadata={})


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "litert_torch", None)
    with pytest.raises(MissingConverterError, match=r"pip install 'edgerl\[convert\]'"):
        converted(nn.Linear(WIDTH, ACTIONS))
