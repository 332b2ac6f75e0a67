"""One policy, ready to act: a `.tflite` file in an interpreter, for a fixed number of copies."""

import ctypes
import importlib.metadata
import importlib.util
from typing import Annotated, Any, Final, Literal

import numpy as np
from msgspec import Meta, Struct, ValidationError, convert
from numpy.typing import NDArray

from edge_actor.policy_file import BadPolicyFile, read_metadata
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.messages import Count, RunSpec
from fleet_protocol.spaces import BoxSpec, SpaceSpec, branches, head_size, stacked_shape

_RUNTIMES: Final = (("ai_edge_litert", "ai-edge-litert"), ("tflite_runtime", "tflite-runtime"))
_AXES: Final = {"float32": 1, "uint8": 3}
_HEAD_OUTPUTS: Final = {"categorical": ("logits",), "gaussian": ("mean", "log_std")}


class PolicyMetadata(Struct, frozen=True, kw_only=True):
    """What a policy file says of itself."""

    run_id: str
    policy_version: Count
    head: Literal["categorical", "gaussian"]
    observation: BoxSpec
    action: SpaceSpec
    recipe: str = ""
    wire_scale: Annotated[float, Meta(gt=0.0, le=1e6)] = 4 / 127
    frame_stack: Annotated[int, Meta(ge=1, le=16)] = 1
    state_size: Annotated[int, Meta(ge=0, le=65_536)] = 0


def interpreter_class() -> tuple[Any, str]:
    """The TFLite interpreter that is installed, and its name with version.

    Raises:
        ProgramError: None is.
    """
    for package, distribution in _RUNTIMES:
        if importlib.util.find_spec(package) is not None:
            interpreter = importlib.import_module(f"{package}.interpreter")
            return interpreter.Interpreter, f"{distribution} {importlib.metadata.version(distribution)}"
    raise ProgramError(
        ExitCode.DEPENDENCY_MISSING,
        "no TFLite runtime is installed: pip install 'edgerl[actor]' (64-bit) or 'edgerl[actor-tflite]' (32-bit)",
    )


class Policy:
    """A loaded policy. Call `observe`, `infer`, and read `outputs` before the next call overwrites them.

    Input and output tensors are views of the interpreter's own memory: 1.3 us a call instead of 2.6. numpy does not
    know who owns that memory, so the interpreter lives exactly as long as this object.

    Args:
        model: The file's bytes.
        copies: N, the batch that every call has.

    Attributes:
        metadata: What the file says of itself.
        observation: `[N, ...]`, float32 or (images) uint8 or int8, to be written.
        outputs: The head's tensors in order, float32 `[N, A]` each: (logits,) or (mean, log_std).
        state_in: float32 `[N, H]`, to be written; None without a memory.
        state_out: float32 `[N, H]`: what to write there at the next step.
        infer: Runs the network.

    Raises:
        BadPolicyFile: It cannot be loaded, or is not what its metadata says.
        ProgramError: No TFLite runtime is installed.
    """

    __slots__ = ("_interpreter", "_model", "infer", "metadata", "observation", "outputs", "state_in", "state_out")

    def __init__(self, model: bytes, *, copies: int) -> None:
        try:
            self.metadata = convert(read_metadata(model), PolicyMetadata)
        except ValidationError as error:
            raise BadPolicyFile(f"the policy's metadata: {error}", reason="metadata") from error
        make_interpreter, _ = interpreter_class()
        self._model = model  # the interpreter reads weights from these very bytes
        try:
            self._interpreter = make_interpreter(model_content=model, num_threads=1)
            self._fit_batch(copies)
        except (ValueError, RuntimeError, KeyError) as error:
            raise BadPolicyFile(f"the runtime refuses the file: {error}", reason="runtime") from error
        details = (*self._interpreter.get_input_details(), *self._interpreter.get_output_details())
        tensors = {d["name"]: d["index"] for d in details}
        memory = ("state_in", "state_out") if self.metadata.state_size else ()
        for name in (*_HEAD_OUTPUTS[self.metadata.head], *memory):
            if name not in tensors:
                raise BadPolicyFile(f"the policy has no tensor {name!r}, as its metadata says", reason="shape")
        if not memory and "state_in" in tensors:
            raise BadPolicyFile("the policy has a memory that its metadata does not tell (state_size)", reason="shape")
        self.observation = self._view(tensors["observation"])
        self.outputs = tuple(self._view(tensors[name]) for name in _HEAD_OUTPUTS[self.metadata.head])
        self.state_in, self.state_out = (self._view(tensors[name]) for name in memory) if memory else (None, None)
        self.infer = self._interpreter.invoke
        self._require_shapes(copies)

    @property
    def state_size(self) -> int:
        """H, or 0 without a memory."""
        return self.metadata.state_size

    def observe(self, observations: NDArray[Any]) -> None:
        """Write what the policy is to see, `[N, ...]`, with its frames stacked."""
        if self.observation.dtype == np.int8:
            # An int8 image is the same bytes with the highest bit turned: 0 to 255 becomes -128 to 127.
            np.bitwise_xor(observations, 0x80, out=self.observation.view(np.uint8))
        else:
            self.observation[...] = observations

    def warm_up(self) -> None:
        """Run once on zeros.

        Raises:
            BadPolicyFile: It cannot be run, or an output is not finite.
        """
        self.observation[...] = 0
        if self.state_in is not None:
            self.state_in[...] = 0
        try:
            self.infer()
        except (ValueError, RuntimeError) as error:
            raise BadPolicyFile(f"the runtime cannot run the file: {error}", reason="runtime") from error
        written = self.outputs if self.state_out is None else (*self.outputs, self.state_out)
        if not all(np.isfinite(output).all() for output in written):
            raise BadPolicyFile("the policy's outputs are not finite on an observation of zeros", reason="nan")

    def require_made_for(self, run: RunSpec, observation: BoxSpec, action: SpaceSpec) -> None:
        """Refuse to act where this policy was not made for.

        Raises:
            BadPolicyFile: It stacks another number of frames than the run.
            ProgramError: It is made for other spaces than this board has.
        """
        metadata = self.metadata
        if metadata.frame_stack != run.frame_stack:
            raise BadPolicyFile(
                f"the policy stacks {metadata.frame_stack} frames, and the run {run.frame_stack}", reason="metadata"
            )
        if (metadata.observation, metadata.action) != (observation, action):
            raise ProgramError(
                ExitCode.SPACES_DIFFER,
                f"the run's policies are made for {metadata.observation} and {metadata.action}, and this board's "
                f"{run.env_id} has {observation} and {action}; "
                "install the same environment, in the same version, on all boards",
            )

    def _fit_batch(self, copies: int) -> None:
        metadata = self.metadata
        inputs = {d["name"]: d["index"] for d in self._interpreter.get_input_details()}
        shape = (copies, *stacked_shape(metadata.observation, metadata.frame_stack))
        self._interpreter.resize_tensor_input(inputs["observation"], shape)
        if metadata.state_size:
            self._interpreter.resize_tensor_input(inputs["state_in"], (copies, metadata.state_size))
        self._interpreter.allocate_tensors()

    def _require_shapes(self, copies: int) -> None:
        """Check the tensors against the metadata: a sampler relies on both."""
        metadata = self.metadata
        if (metadata.head == "categorical") != bool(branches(metadata.action)):
            raise BadPolicyFile(f"a {metadata.head} head cannot act in {metadata.action}", reason="metadata")
        states = [] if self.state_in is None else [self.state_in, self.state_out]
        axes = _AXES.get(metadata.observation.dtype)
        if len(metadata.observation.shape) != axes:
            raise BadPolicyFile(
                f"expected a float32 vector or a uint8 image to observe, got {metadata.observation}", reason="metadata"
            )
        expected = [(copies, *stacked_shape(metadata.observation, metadata.frame_stack))]
        expected += [(copies, head_size(metadata.action))] * len(self.outputs)
        expected += [(copies, metadata.state_size)] * len(states)
        tensors = [self.observation, *self.outputs, *states]
        actual = [tensor.shape for tensor in tensors if tensor is not None]
        if actual != expected:
            raise BadPolicyFile(f"expected tensors {expected} for {metadata.action}, got {actual}", reason="shape")
        kinds = ("float32",) if metadata.observation.dtype == "float32" else ("uint8", "int8")
        if self.observation.dtype.name not in kinds:
            raise BadPolicyFile(
                f"expected an observation of {' or '.join(kinds)}, got {self.observation.dtype}", reason="shape"
            )
        if any(tensor.dtype != np.float32 for tensor in tensors[1:] if tensor is not None):
            raise BadPolicyFile("expected float32 outputs and states", reason="shape")

    def _view(self, index: int) -> NDArray[Any]:
        tensor: NDArray[Any] = self._interpreter.tensor(index)()
        address: int = tensor.__array_interface__["data"][0]
        memory = (ctypes.c_char * tensor.nbytes).from_address(address)
        return np.frombuffer(memoryview(memory), tensor.dtype).reshape(tensor.shape)
