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
from fleet_protocol.messages import Count
from fleet_protocol.spaces import BoxSpec, DiscreteSpec, SpaceSpec

_RUNTIMES: Final = (("ai_edge_litert", "ai-edge-litert"), ("tflite_runtime", "tflite-runtime"))
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
    """A loaded policy. Write `observation`, call `infer`, read `outputs` before the next call overwrites them.

    Input and output tensors are views of the interpreter's own memory: 1.3 us a call instead of 2.6. numpy does not
    know who owns that memory, so the interpreter lives exactly as long as this object.

    Args:
        model: The file's bytes.
        copies: N, the batch that every call has.

    Attributes:
        metadata: What the file says of itself.
        observation: float32 `[N, D]`, to be written.
        outputs: The head's tensors in order, float32 `[N, A]` each: (logits,) or (mean, log_std).
        infer: Runs the network.

    Raises:
        BadPolicyFile: It cannot be loaded, or is not what its metadata says.
        ProgramError: No TFLite runtime is installed.
    """

    __slots__ = ("_interpreter", "_model", "infer", "metadata", "observation", "outputs")

    def __init__(self, model: bytes, *, copies: int) -> None:
        try:
            self.metadata = convert(read_metadata(model), PolicyMetadata)
        except ValidationError as error:
            raise BadPolicyFile(f"the policy's metadata: {error}") from error
        make_interpreter, _ = interpreter_class()
        self._model = model  # the interpreter reads weights from these very bytes
        try:
            self._interpreter = make_interpreter(model_content=model, num_threads=1)
            details = {d["name"]: d for d in self._interpreter.get_input_details()}
            shape = (copies, *self.metadata.observation.shape)
            self._interpreter.resize_tensor_input(details["observation"]["index"], shape)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError, KeyError) as error:
            raise BadPolicyFile(f"the runtime refuses the file: {error}") from error
        tensors = {
            d["name"]: d["index"]
            for d in (*self._interpreter.get_input_details(), *self._interpreter.get_output_details())
        }
        missing = [name for name in _HEAD_OUTPUTS[self.metadata.head] if name not in tensors]
        if missing:
            raise BadPolicyFile(f"a {self.metadata.head} policy needs the output {missing[0]!r}")
        self.observation = self._view(tensors["observation"])
        self.outputs = tuple(self._view(tensors[name]) for name in _HEAD_OUTPUTS[self.metadata.head])
        self.infer = self._interpreter.invoke
        self._require_shapes(copies)

    def warm_up(self) -> None:
        """Run once on zeros.

        Raises:
            BadPolicyFile: It cannot be run, or an output is not finite.
        """
        self.observation[...] = 0
        try:
            self.infer()
        except (ValueError, RuntimeError) as error:
            raise BadPolicyFile(f"the runtime cannot run the file: {error}") from error
        if not all(np.isfinite(output).all() for output in self.outputs):
            raise BadPolicyFile("the policy's outputs are not finite on an observation of zeros")

    def _require_shapes(self, copies: int) -> None:
        """Check the tensors against the metadata: a sampler relies on both."""
        action = self.metadata.action
        is_discrete = isinstance(action, DiscreteSpec)
        if is_discrete != (self.metadata.head == "categorical"):
            raise BadPolicyFile(f"a {self.metadata.head} head cannot act in {action}")
        size = action.n if isinstance(action, DiscreteSpec) else action.shape[0]
        expected = [(copies, *self.metadata.observation.shape[:1])] + [(copies, size)] * len(self.outputs)
        actual = [tensor.shape for tensor in (self.observation, *self.outputs)]
        if actual != expected:
            raise BadPolicyFile(f"expected tensors {expected} for {action}, got {actual}")

    def _view(self, index: int) -> NDArray[np.float32]:
        tensor: NDArray[Any] = self._interpreter.tensor(index)()
        if tensor.dtype != np.float32:
            raise BadPolicyFile(f"expected float32 inputs and outputs, got {tensor.dtype}")
        address: int = tensor.__array_interface__["data"][0]
        memory = (ctypes.c_char * tensor.nbytes).from_address(address)
        return np.frombuffer(memoryview(memory), np.float32).reshape(tensor.shape)
