"""How a policy is trained: the settings, and the files that hold them."""

import dataclasses
import difflib
import importlib.resources
import pathlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args, get_origin, get_type_hints

from jax_cce.algebra.costs import check
from jax_cce_search.alphazero.network import Architecture

__all__ = [
    "Configuration",
    "Graphs",
    "Learning",
    "Proximal",
    "SelfPlay",
    "from_document",
    "load",
    "shipped",
]

_SHIPPED = importlib.resources.files("jax_cce_search.alphazero") / "configurations"


@dataclass(frozen=True)
class Graphs:
    """The graphs that are learnt from.

    Attributes:
        random: number of random programs.
        vertices: the least and the largest number of vertices of a random program.
        functions: number of functions drawn from the families.
        windows: sub-graphs cut from the graph of each function, beside the whole graph.
        costs: the measures that functions are counted in, in turns.
        nodes: the padded numbers of nodes; what is larger is left out.
        kinds: the padded numbers of kinds of blocks, for games that are not of scalars alone.
        validation: number of further graphs that the policy is tried on from time to time.
    """

    random: int = 1000
    vertices: tuple[int, int] = (16, 64)
    functions: int = 200
    windows: int = 2
    costs: tuple[str, ...] = ("multiplications", "flops")
    nodes: tuple[int, ...] = (32, 64, 96)
    kinds: tuple[int, ...] = (64,)
    validation: int = 64

    def __post_init__(self) -> None:
        for cost in self.costs:
            check(cost)
        least, most = self.vertices
        if not 2 <= least <= most:
            raise ValueError(f"vertices must be two ascending numbers, but got {self.vertices}.")


@dataclass(frozen=True)
class SelfPlay:
    """How games are played.

    Attributes:
        games: games played side by side.
        simulations: moves tried in the tree for each move played.
        considered: moves considered at the root of the tree.
        noise: scale of the Gumbel noise at the root.
    """

    games: int = 64
    simulations: int = 24
    considered: int = 8
    noise: float = 1.0


@dataclass(frozen=True)
class Learning:
    """How the network learns.

    Attributes:
        rate: the highest learning rate.
        last_rate: the last learning rate, as a fraction of that.
        warmup: steps until the highest rate.
        weight_decay: as of `optax.adamw`.
        batch: positions in a step.
        updates: steps after each batch of games.
        replay: positions kept of each padding.
        cost_weight: weight of the costs beside the policy in the loss.
        logarithmic: whether rewards are logarithms of costs, as for graphs some of whose vertices
            cost a thousand times what others do.
    """

    rate: float = 2e-3
    last_rate: float = 0.05
    warmup: int = 50
    weight_decay: float = 1e-4
    batch: int = 256
    updates: int = 16
    replay: int = 40_000
    cost_weight: float = 5.0
    logarithmic: bool = False


@dataclass(frozen=True)
class Proximal:
    """How proximal policy optimisation learns, where `algorithm` is "ppo".

    Attributes:
        clip: by how much the probability of a move may change in ratio.
        entropy: weight of the policy's entropy.
        trace: the decay of advantages over moves (lambda of generalised advantage estimation).
    """

    clip: float = 0.2
    entropy: float = 0.003
    trace: float = 0.95


@dataclass(frozen=True)
class Configuration:
    """All settings of a training run.

    Attributes:
        algorithm: "alphazero" or "ppo".
        seed: seeds the weights, the graphs and the games.
        iterations: batches of games played.
        validate_every: iterations between trials on the validation graphs.
        save_every: iterations between checkpoints.
        devices: devices that a CPU is split into, one for each core; other platforms have theirs.
        architecture: of the network.
        graphs: what is learnt from.
        self_play: how games are played.
        learning: how the network learns.
        proximal: how it learns by proximal policy optimisation.
    """

    algorithm: str = "alphazero"
    seed: int = 0
    iterations: int = 100
    validate_every: int = 10
    save_every: int = 10
    devices: int = 1
    architecture: Architecture = field(default_factory=Architecture)
    graphs: Graphs = field(default_factory=Graphs)
    self_play: SelfPlay = field(default_factory=SelfPlay)
    learning: Learning = field(default_factory=Learning)
    proximal: Proximal = field(default_factory=Proximal)

    def __post_init__(self) -> None:
        if self.algorithm not in ("alphazero", "ppo"):
            raise ValueError(f"algorithm must be 'alphazero' or 'ppo', but got {self.algorithm!r}.")
        for name in ("iterations", "validate_every", "save_every", "devices"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, but got {getattr(self, name)!r}.")


def load(path: str | pathlib.Path) -> Configuration:
    """The configuration in a TOML file; what it leaves out has its default.

    Args:
        path: the file, or the name of a shipped configuration (see `shipped`).

    Raises:
        FileNotFoundError: where there is neither.
        ValueError: for a file that is no TOML, unknown settings, and values of a wrong type.
    """
    file = pathlib.Path(path)
    if file.is_file():
        text = file.read_text()
    elif str(path) in shipped():
        text = (_SHIPPED / f"{path}.toml").read_text()
    else:
        raise FileNotFoundError(
            f"There is no file {str(path)!r}, and no configuration of that name comes with the "
            f"package; those that do are {', '.join(map(repr, shipped()))}."
        )
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not a TOML file: {error}.") from error
    return from_document(document, str(path))


def shipped() -> tuple[str, ...]:
    """The names of the configurations that come with the package."""
    return tuple(sorted(f.name.removesuffix(".toml") for f in _SHIPPED.iterdir()))


def from_document(document: Mapping[str, Any], where: str) -> Configuration:
    """The configuration in a document of TOML or JSON.

    Args:
        document: the settings.
        where: what messages call the document.
    """
    return _settings(Configuration, document, where)


def _settings(of: Any, document: Any, where: str) -> Any:
    """A dataclass from what a document says of its fields."""
    if not isinstance(document, Mapping):
        raise ValueError(f"{where} must be a table of settings, but is {document!r}.")
    types = get_type_hints(of)
    values = {}
    for name, value in document.items():
        if name not in types:
            near = difflib.get_close_matches(name, types, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"{where} has an unknown setting {name!r}.{hint} "
                f"The settings there are {', '.join(types)}."
            )
        values[name] = _value(types[name], value, f"{where}: {name}")
    try:
        return of(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _value(of: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(of):
        return _settings(of, value, where)
    if get_origin(of) is tuple:
        inner = get_args(of)
        expected = None if inner[-1] is Ellipsis else len(inner)
        if not isinstance(value, list | tuple) or expected not in (None, len(value)):
            many = "" if expected is None else f"{expected} "
            raise ValueError(f"{where} must be a list of {many}values, but is {value!r}.")
        return tuple(_value(inner[0], each, where) for each in value)
    if of is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not of:
        raise ValueError(f"{where} must be of type {of.__name__}, but is {value!r}.")
    return value
