"""What can be set about learning: table `[learner]`, `EDGERL_LEARNER_*`, or flags of `edgerl learn`."""

from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct, field

Positive = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
NetworkKind = Literal["auto", "mlp", "nature-cnn", "impala-resnet"]
MemoryKind = Literal["none", "gru", "lstm"]


AUTO: Final = "auto"
"""The recipe that each class of boards chooses by itself."""
SIGNED_KINDS: Final = ("run", "policy", "candidate", "command")
"""What a learner's key must be allowed to sign."""


class Architecture(Struct, frozen=True, kw_only=True):
    """What a network is made of, beside the spaces; a checkpoint says it, so that its weights can be read alone."""

    network: NetworkKind = "auto"
    hidden_sizes: tuple[int, ...] = ()
    memory: MemoryKind = "none"
    memory_size: int = 128


class LearnerSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every field has a default that learns CartPole-v1."""

    broker: str = "127.0.0.1:1883"
    """Address of the MQTT broker, HOST or HOST:PORT."""
    ca: str = ""
    """File of the fleet's CA (PEM); with `cert` and `key` the broker is spoken to over TLS."""
    cert: str = ""
    """File of this program's certificate (PEM)."""
    key: str = ""
    """File of its private key (PEM)."""
    insecure: bool = False
    """Speak to a broker on another machine in plain text, where anybody between can read and change it."""
    fleet: str = "demo"
    """Name of the fleet."""
    state: str = "edgerl-state"
    """Folder for checkpoints; a run found there is resumed."""
    report: str = ""
    """File for the report (JSON); empty = none."""
    signing_key: str = ""
    """File of the private key that signs what boards act on; empty = unsigned, on loopback."""
    keyring: str = ""
    """File of the keyring in which the fleet's root key names that key."""

    env_id: str = "CartPole-v1"
    """The environment, as boards know it."""
    env_kwargs: dict[str, Any] = {}
    """Arguments of the environment."""
    target_return: float | None = None
    """End when the mean return of 100 episodes reaches this."""
    time_limit_s: float = 0.0
    """End after so many seconds from the first policy; 0 = never."""
    evaluation_episodes: Annotated[int, Meta(ge=0)] = 100
    """Greedy episodes on a board at the end; 0 = none."""

    unroll_length: Annotated[int, Meta(ge=1, le=65_536)] = 32
    """T: steps of every copy in one window."""
    copies: Annotated[int, Meta(ge=1, le=4096)] = 16
    """N: environments per worker, unless a board's owner has said otherwise."""
    max_in_flight: Annotated[int, Meta(ge=0)] = 2
    """Unacked windows after which a worker waits for the learner; 0 = workers never wait."""
    max_age_s: float = 60.0
    """Windows older than this are dropped on the board."""
    max_policy_lag: Positive = 64
    """Windows whose newest step is further behind than this are refused, in versions."""
    recipe: str = "int8-dynamic"
    """How policies are compressed, e.g. distill(64,64)+qat+int8-dynamic; auto = as boards measure."""
    max_compression_kl: Annotated[float, Meta(gt=0.0)] = 0.1
    """A compressed policy that is further (mean KL, nats) from what was learned is not published, but a humbler one."""
    frame_stack: Annotated[int, Meta(ge=1, le=16)] = 1
    """So many observations, the newest last, make what the policy sees."""
    control_hz: Annotated[float, Meta(ge=0.0, le=10_000.0)] = 0.0
    """Steps a second, kept by the clock (copies is then 1, and max_in_flight 0); 0 = as fast as it goes."""
    safe_action: Annotated[list[float], Meta(max_length=4096)] = []
    """Applied, flat, at a missed deadline; empty = the last action again."""

    network: NetworkKind = "auto"
    """auto (mlp for vectors, nature-cnn for images), mlp, nature-cnn or impala-resnet."""
    memory: MemoryKind = "none"
    """What the policy remembers with from step to step: none, gru or lstm."""
    memory_size: Annotated[int, Meta(ge=1, le=32_768)] = 128
    """Width of the memory."""
    hidden_sizes: Annotated[list[Positive], Meta(min_length=1)] = field(default_factory=lambda: [64, 64])
    """Widths of an mlp's layers; without a memory the policy and the value have one each."""
    learning_rate: Annotated[float, Meta(gt=0.0)] = 1e-3
    """Adam's step size."""
    gamma: Share = 0.99
    """Discount."""
    lambda_: Share = 0.95
    """Trace decay of the correction."""
    clip_rho_threshold: float = 1.0
    """rho-bar: cap of the importance ratios in the value target."""
    clip_c_threshold: float = 1.0
    """c-bar: cap of the importance ratios in the traces."""
    passes: Positive = 4
    """Gradient steps on one batch; with more than one the surrogate is clipped."""
    surrogate_clip: float = 0.2
    """How far one batch may move a probability ratio."""
    entropy_cost: float = 0.0
    """Weight of the entropy bonus."""
    value_cost: float = 0.5
    """Weight of the value loss."""
    max_grad_norm: float = 0.5
    """Gradients are clipped to this norm."""
    batch_windows: Positive = 2
    """Windows in a batch, where so many come in time."""
    batch_wait_s: float = 0.25
    """Seconds to wait for a full batch once a window is there."""

    publish_every_updates: Positive = 1
    """Publish a policy after so many updates ..."""
    publish_every_s: float = 1.0
    """... or so many seconds, whichever is first."""
    max_publish_bytes_per_s: Annotated[float, Meta(gt=0.0)] = 1e6
    """Policies are published no faster than this."""
    checkpoint_every_s: float = 30.0
    """Seconds between checkpoints: at most so much learning is lost in a crash."""
    heartbeat_s: float = 1.0
    """Seconds between heartbeats."""
    seed: int = 0
    """Seed of the networks and batches."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    threads: Positive = 1
    """torch's threads; small networks gain nothing from more."""

    @property
    def architecture(self) -> Architecture:
        """What the network is to be made of."""
        return Architecture(
            network=self.network,
            hidden_sizes=tuple(self.hidden_sizes),
            memory=self.memory,
            memory_size=self.memory_size,
        )
