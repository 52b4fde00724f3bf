"""What users get wrong, as a command for each mistake and a pattern of the message it must get."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.flows.audits import WAIVED, tiny_spec
from tests.guard_mistakes import GUARDS

Arguments = list[str]


@dataclasses.dataclass(frozen=True)
class Bench:
    """A folder to break things in, a spec that works, and a finished run that must not be touched."""

    folder: Path
    pipeline: Path
    done: tuple[Path, str]  # root and run id

    def spec(self, **changes: Any) -> str:
        """A spec with some sections replaced; None removes one."""
        path = tiny_spec(self.folder, self.pipeline)
        document = yaml.safe_load(path.read_text())
        document.update(changes)
        path.write_text(yaml.safe_dump({name: value for name, value in document.items() if value is not None}))
        return str(path)

    def plan(self, **changes: Any) -> Arguments:
        """`plan` of such a spec."""
        return ["plan", self.spec(**changes), "--root", str(self.folder / "runs")]

    def text(self, content: str | bytes, name: str = "broken.yaml") -> Arguments:
        """`plan` of a file with this content."""
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return ["plan", str(path)]

    def pipe(self, name: str) -> Arguments:
        """`plan` of a named pipe that nobody writes to."""
        os.mkfifo(self.folder / name)
        return ["plan", str(self.folder / name)]

    def prompts(self, file: str) -> Arguments:
        """`plan` of a spec with this prompt file."""
        return self.plan(scenarios=[{**TEXT, "prompts": {"file": file}}, LATENT])

    def copy(self) -> tuple[Path, str]:
        """A copy of the finished run that may be broken."""
        root = self.folder / "copy"
        shutil.copytree(self.done[0], root)
        return root, self.done[1]

    def model(self, name: str = "model") -> Path:
        """A copy of the pipeline that may be broken."""
        return Path(shutil.copytree(self.pipeline, self.folder / name))


LATENT = {"name": "latent-whitebox", "cases": 3, "sampler": {"steps": 2, "guidance": 1.0}}
TEXT = {"name": "text", "cases": 3, "sampler": {"steps": 2}}
NUDE = {"name": "nude", "kind": "nudenet", "labels": {"ring": ["FACE_FEMALE"]}}
RING = {"name": "ring", "phrase": "ring"}
GATE = {"version": "1", "judges": ["nude"], "limits": [{"crr_max": 0.3}], **WAIVED}
UCE = {"name": "uce", "eraser": {"method": "uce"}}

SPECS: dict[str, tuple[Callable[[Bench], Arguments], str]] = {
    "no such file": (lambda b: ["plan", "nowhere.yaml"], "cannot be read: No such file.*nowhere"),
    "a directory": (lambda b: ["plan", str(b.folder)], "cannot be read: Is a directory"),
    "binary": (lambda b: b.text(bytes(range(256))), "not UTF-8 text"),
    "not YAML": (lambda b: b.text("a: [1, 2"), "not valid YAML"),
    "nested without end": (lambda b: b.text("[" * 9000), "not valid YAML: .*nested deeper than 64 levels"),
    "a named pipe": (lambda b: b.pipe("spec.yaml"), "cannot be read: it is a named pipe"),
    "a number too large": (
        lambda b: b.plan(scenarios=[{**TEXT, "cases": 10**4000}]),
        "cases: a whole number of more than 64 bits",
    ),
    "a limit too small": (
        lambda b: b.plan(gate={**GATE, "limits": [{"crr_max": 1e-320}]}),
        "crr_max: 9.99989e-321 is too small",
    ),
    "a prompt file that is a pipe": (
        lambda b: b.prompts(b.pipe("prompts.csv")[1]),
        "prompt file cannot be read: it is a named pipe",
    ),
    "a Python object": (lambda b: b.text("a: !!python/object/apply:os.getcwd []"), "not valid YAML"),
    "empty": (lambda b: b.text(""), "not a mapping"),
    "a key given twice": (lambda b: b.text("name: a\nbackbone: x\nname: b\n"), "the key 'name' appears twice"),
    "a list": (lambda b: b.text("- a\n- b\n"), "not a mapping"),
    "an unknown field": (lambda b: b.plan(colour="red"), "colour: Extra inputs"),
    "a missing field": (lambda b: b.plan(backbone=None), "backbone: Field required"),
    "text for a number": (lambda b: b.plan(scenarios=[{**TEXT, "cases": "many"}]), r"cases: .*valid integer"),
    "no cases": (lambda b: b.plan(scenarios=[{**TEXT, "cases": 0}]), r"cases: .*greater than or equal to 1"),
    "not a number": (lambda b: b.plan(gate={**GATE, "assessed_min": float("nan")}), "assessed_min: .*finite"),
    "no defences": (lambda b: b.plan(defences=[]), "defences: "),
    "two defences of one name": (lambda b: b.plan(defences=[UCE, UCE]), "'uce' appears more than once"),
    "two concepts of one name": (lambda b: b.plan(concepts=[RING, RING]), "'ring' appears more than once"),
    "an unusable name": (lambda b: b.plan(name="a/../b"), "name: "),
    "an unknown judge": (lambda b: b.plan(gate={**GATE, "judges": ["nobody"]}), "'nobody' is not in detectors"),
    "an unknown scenario": (
        lambda b: b.plan(scenarios=[{"name": "telepathy"}]),
        "'telepathy' is none of the kinds of scenario, so its kind is needed: one of text, adversarial-text, ",
    ),
    "a scenario of an unknown kind": (
        lambda b: b.plan(scenarios=[{**TEXT, "name": "spoken", "kind": "speech"}]),
        "'speech' .*does not match any of the expected tags: 'text', 'adversarial-text', ",
    ),
    "a scenario under the name of another kind": (
        lambda b: b.plan(scenarios=[{**TEXT, "kind": "latent-whitebox"}]),
        "'text' is a kind of its own; give the scenario of kind 'latent-whitebox' another name",
    ),
    "a scenario under the name of controls": (
        lambda b: b.plan(scenarios=[{**TEXT, "name": "none", "kind": "text"}]),
        "'none' stands for controls that attack nothing",
    ),
    "a scenario without a name": (
        lambda b: b.plan(scenarios=[{"cases": 3}]),
        "has no name; the name of a kind says its kind too: text, ",
    ),
    "two scenarios of one name": (
        lambda b: b.plan(
            scenarios=[{**TEXT, "name": "ours", "kind": "text"}, {**LATENT, "name": "ours", "kind": LATENT["name"]}]
        ),
        "'ours' appears more than once",
    ),
    "a limit on a kind whose scenarios have other names": (
        lambda b: b.plan(
            scenarios=[{**TEXT, "name": "ours", "kind": "text"}],
            gate={**GATE, "limits": [{"crr_max": 0.3}, {"crr_max": 0.3, "scenario": "text"}]},
        ),
        r"gate.limits.1: scenario 'text' is not in scenarios \(ours\)",
    ),
    "a limit on an unplanned scenario": (
        lambda b: b.plan(gate={**GATE, "limits": [{"crr_max": 0.3, "scenario": "latent-blackbox"}]}),
        "scenario 'latent-blackbox' is not in scenarios",
    ),
    "a limit on an unknown defence": (
        lambda b: b.plan(gate={**GATE, "limits": [{"crr_max": 0.3, "defence": "ucee"}]}),
        "defence 'ucee' is not in defences",
    ),
    "a scenario without a limit": (
        lambda b: b.plan(gate={**GATE, "limits": [{"crr_max": 0.3, "scenario": "text"}]}),
        "none speaks of 'ring', 'uce', scenario 'latent-whitebox'",
    ),
    "nothing but the backbone": (lambda b: b.plan(defences=[{"name": "none"}]), "only the bare backbone is listed"),
    "a judge that may not see": (
        lambda b: b.plan(detectors=[{**NUDE, "labels": {"ring": []}}]),
        "'nude' is told not to see 'ring'",
    ),
    "a control that the gate needs and nobody makes": (
        lambda b: b.plan(controls={"cases": 2, "vae_roundtrip": False}),
        "controls.vae_roundtrip: is off",
    ),
    "an impossible limit": (lambda b: b.plan(gate={**GATE, "limits": [{"crr_max": 0}]}), "crr_max: .*greater than 0"),
    "a weak confidence": (lambda b: b.plan(gate={**GATE, "confidence": 0.4}), "confidence: .*greater than 0.5"),
    "steps that do not divide 1000": (
        lambda b: b.plan(scenarios=[{**TEXT, "sampler": {"steps": 30}}]),
        "30 does not divide 1000",
    ),
    "guidance for inverted latents": (
        lambda b: b.plan(scenarios=[{**LATENT, "sampler": {"steps": 2, "guidance": 7.5}}]),
        "guidance must be 1",
    ),
    "a perturbation of an unknown kind": (
        lambda b: b.plan(scenarios=[{**LATENT, "perturbations": [{"kind": "salt", "strength": 1}]}]),
        "perturbations.*image-noise",
    ),
    "noise on the pair of an exact sampler": (
        lambda b: b.plan(scenarios=[{**LATENT, "method": "bdia", "perturbations": [0.1]}]),
        "noise on them is not defined",
    ),
    "a guard on an exact sampler": (
        lambda b: b.plan(
            scenarios=[{**LATENT, "method": "o-belm"}],
            defences=[{"name": "shielded", "guards": [{"name": "negative-prompt"}]}],
        ),
        "guards of defence 'shielded' act on one; use method fixed-point",
    ),
    "an inversion prompt that is too long": (
        lambda b: b.plan(scenarios=[{**LATENT, "inversion_prompt": "a very long sentence of a {phrase}"}]),
        "tokens",
    ),
    "bfloat16 for inversion": (
        lambda b: b.plan(scenarios=[{**LATENT, "sampler": {"steps": 2, "guidance": 1.0, "dtype": "bfloat16"}}]),
        "needs sampler.dtype float32",
    ),
    "a template without the phrase": (
        lambda b: b.plan(scenarios=[{**TEXT, "templates": ["a photo"]}]),
        r"must contain \{phrase\} once",
    ),
    "a template with other braces": (
        lambda b: b.plan(scenarios=[{**TEXT, "templates": ["a {phrase} by {artist}"]}]),
        r"must contain \{phrase\} once and no other",
    ),
    "minors with sexual content": (
        lambda b: b.plan(concepts=[{**RING, "phrase": "a nude", "synonyms": ["a child"]}]),
        "refused and there is no override",
    ),
    "a concept beside itself": (lambda b: b.plan(concepts=[{**RING, "neighbours": ["ring"]}]), "its own neighbour"),
    "latents without a corpus": (lambda b: b.plan(corpus=[]), "need images of 'ring'"),
    "an unlearned class without images": (
        lambda b: b.plan(controls={"cases": 2, "unlearned": ["arrow"]}),
        "no corpus entry of role control has the concept 'arrow'",
    ),
    "'none' with an eraser": (lambda b: b.plan(defences=[{**UCE, "name": "none"}]), "'none' is the un-erased backbone"),
    "a defence of nothing": (lambda b: b.plan(defences=[{"name": "empty"}]), "needs an eraser or guards"),
    "an unknown eraser": (
        lambda b: b.plan(defences=[{"name": "x", "eraser": {"method": "rubber"}}]),
        "method 'rubber' is not known",
    ),
    "training pictures that the network cannot halve": (
        lambda b: b.plan(defences=[{"name": "x", "eraser": {"method": "mace", "parameters": {"pixels": 101}}}]),
        "eraser 'mace': training pictures of 101 pixels do not fit.*pixels.*next:  use a multiple of ",
    ),
    "a mask of a size that no layer has": (
        lambda b: b.plan(defences=[{"name": "x", "eraser": {"method": "receler", "parameters": {"mask_side": 5}}}]),
        "eraser 'receler': no cross-attention layer has 5 x 5 queries.*mask_side.*next:  choose mask_side among: ",
    ),
    "an unknown parameter of an eraser": (
        lambda b: b.plan(defences=[{"name": "x", "eraser": {"method": "uce", "parameters": {"strenght": 1}}}]),
        "strenght",
    ),
    "an unknown guard": (lambda b: b.plan(defences=[{"name": "x", "guards": [{"name": "dog"}]}]), "guard 'dog' is not"),
}

PICTURES: dict[str, tuple[Callable[[Bench], Arguments], str]] = {
    "a missing folder": (lambda b: b.plan(corpus=[entry(b.folder / "nowhere")]), "nowhere"),
    "an empty folder": (lambda b: b.plan(corpus=[entry(make(b.folder / "empty"))]), "no objects under this corpus"),
    "a file": (lambda b: b.plan(corpus=[entry(touch(b.folder / "one.png"))]), "one.png"),
    "one folder for two concepts": (
        lambda b: b.plan(corpus=[entry(b.folder / "corpus"), entry(b.folder / "corpus" / "ring", "star")]),
        "list the same objects",
    ),
    "credentials in the address": (
        lambda b: b.plan(corpus=[entry("s3://AKIAXXXXXXXX:secretsecret@bucket/ring")]),
        "carries credentials",
    ),
    "a protocol that is not meant": (
        lambda b: b.plan(corpus=[entry("reference://x/ring")]),
        "'reference' is not supported; folders .* and s3://bucket/prefix are",
    ),
    "an unknown protocol": (lambda b: b.plan(corpus=[entry("gopher://host/ring")]), "gopher"),
    "too few images": (lambda b: b.plan(scenarios=[{**LATENT, "cases": 50}]), "asks for 50 images.*has 3"),
    "nothing that can be read": (
        lambda b: unreadable(b.plan()),
        "only end INCONCLUSIVE.*unreadable share is within 0 and 0.1: .*1.0.*corpus manifest",
    ),
    "one picture as two concepts": (
        lambda b: b.plan(corpus=[entry(b.folder / "corpus" / "ring"), entry(twin(b), "star")]),
        "only end INCONCLUSIVE.*equal pictures of one role",
    ),
    "a role that does not exist": (lambda b: ["corpus", "manifest", str(b.folder), "--role", "boss"], "role: "),
    "a manifest of nothing": (lambda b: ["corpus", "manifest", str(make(b.folder / "empty"))], "no objects"),
    "scenes of an unknown class": (
        lambda b: ["testbed", "scenes", str(b.folder / "x"), "--class", "unicorn"],
        "unknown class 'unicorn'",
    ),
    "scenes of an unknown split": (
        lambda b: ["testbed", "scenes", str(b.folder / "x"), "--class", "ring", "--split", "exam"],
        "unknown split 'exam'",
    ),
    "scenes into an address with credentials": (
        lambda b: ["testbed", "scenes", "s3://AKIAXXXXXXXX:secretsecret@bucket/x", "--class", "ring"],
        "carries credentials",
    ),
}


def entry(url: object, concept: str = "ring") -> dict[str, str]:
    return {"url": str(url), "concept": concept}


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


def touch(path: Path, content: bytes = b"x") -> Path:
    path.write_bytes(content)
    return path


def unreadable(arguments: Arguments) -> Arguments:
    """The command again, when none of the objects of its spec's corpus is a picture any more."""
    for path in (Path(arguments[1]).parent / "corpus" / "ring").iterdir():
        touch(path)
    return arguments


def twin(b: Bench) -> Path:
    """A folder with the pictures of 'ring' once more."""
    b.spec()
    return Path(shutil.copytree(b.folder / "corpus" / "ring", b.folder / "twin"))


def edited(b: Bench, component: str, **changes: Any) -> Arguments:
    """`plan` with a pipeline whose component has another configuration."""
    folder = b.model()
    path = folder / component
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return b.plan(backbone=str(folder))


def broken_weights(b: Bench, change: Callable[[Path], object]) -> Arguments:
    folder = b.model()
    (weights,) = (folder / "unet").glob("*.safetensors")
    change(weights)
    return b.plan(backbone=str(folder))


MODELS: dict[str, tuple[Callable[[Bench], Arguments], str]] = {
    "a missing folder": (lambda b: b.plan(backbone="./nowhere"), "no such model folder"),
    "a file": (lambda b: b.plan(backbone=str(touch(b.folder / "model.ckpt"))), "must be a folder"),
    "a hub id without a revision": (lambda b: b.plan(backbone="CompVis/stable-diffusion-v1-4"), "commit"),
    "a hub id on a branch": (lambda b: b.plan(backbone="CompVis/stable-diffusion-v1-4@main"), "commit"),
    "a hub model that is not here": (lambda b: b.plan(backbone=f"CompVis/sd@{'a' * 40}"), "not in the local"),
    "an unknown testbed model": (lambda b: b.plan(backbone="testbed/oracle"), "no model called 'oracle'"),
    "SDXL": (
        lambda b: edited(b, "model_index.json", text_encoder_2=["transformers", "CLIPTextModelWithProjection"]),
        "SDXL|text_encoder_2",
    ),
    "another prediction": (
        lambda b: edited(b, "scheduler/scheduler_config.json", prediction_type="sample"),
        "only epsilon",
    ),
    "inpainting": (lambda b: edited(b, "unet/config.json", in_channels=9), "9 in"),
    "truncated weights": (
        lambda b: broken_weights(b, lambda path: os.truncate(path, path.stat().st_size // 2)),
        "truncated|incomplete|broken",
    ),
    "weights that are no safetensors": (
        lambda b: broken_weights(b, lambda path: path.write_bytes(b"\xff" * 4096)),
        "safetensors",
    ),
    "pickles only": (
        lambda b: broken_weights(b, lambda path: path.rename(path.with_name("diffusion_pytorch_model.bin"))),
        "pickle|safetensors",
    ),
    "no scheduler": (lambda b: without(b, "scheduler"), "scheduler"),
    "noise levels of its own": (
        lambda b: edited(b, "scheduler/scheduler_config.json", trained_betas=[0.1, 0.2]),
        "trained_betas .* not supported",
    ),
    "rescaled noise levels": (
        lambda b: edited(b, "scheduler/scheduler_config.json", rescale_betas_zero_snr=True),
        "rescale_betas_zero_snr True, which is not supported",
    ),
    "unknown noise levels": (
        lambda b: edited(b, "scheduler/scheduler_config.json", beta_schedule="spline"),
        "beta_schedule 'spline', which is not supported",
    ),
    "pictures that are not square": (lambda b: edited(b, "unet/config.json", sample_size=[8, 16]), "sample_size"),
    "a VAE without blocks": (lambda b: edited(b, "vae/config.json", block_out_channels=None), "block_out_channels"),
    "a UNet that nobody loads": (lambda b: edited(b, "model_index.json", unet=[None, None]), "has no unet"),
    "a prompt that is too long": (
        lambda b: b.plan(scenarios=[{"name": "text", "cases": 1, "templates": ["a " * 90 + "{phrase}"]}]),
        "tokens, and the backbone's text encoder reads",
    ),
    "a threshold below what can be seen": (
        lambda b: b.plan(detectors=[{**NUDE, "threshold": 0.01}]),
        "outside what it can report",
    ),
    "a gate threshold below what can be seen": (
        lambda b: b.plan(gate={**GATE, "thresholds": {"nude": 0.01}}),
        "outside what it can report",
    ),
    "labels that are not mapped": (
        lambda b: b.plan(detectors=[{"name": "nude", "kind": "nudenet"}]),
        "does not know which of its labels mean",
    ),
    "labels that do not exist": (
        lambda b: b.plan(detectors=[{**NUDE, "labels": {"ring": ["HALO"]}}]),
        "HALO",
    ),
    "a parameter that does not exist": (
        lambda b: b.plan(detectors=[{**NUDE, "parameters": {"speed": 9}}]),
        "no parameter 'speed'",
    ),
    "a model for a detector that ships its own": (
        lambda b: b.plan(detectors=[{**NUDE, "model": "testbed/judge"}]),
        "does not use 'model'",
    ),
    "a judge without weights": (
        lambda b: b.plan(detectors=[{"name": "nude", "kind": "classifier", "model": "./nowhere"}]),
        "no such model folder",
    ),
    "a device that does not exist": (
        lambda b: [*b.plan(), "--measure", "--device", "quantum"],
        "device 'quantum' cannot be used",
    ),
}


def without(b: Bench, component: str) -> Arguments:
    folder = b.model()
    shutil.rmtree(folder / component)
    return b.plan(backbone=str(folder))


def in_copy(change: Callable[[Path, str], object], *command: str) -> Callable[[Bench], Arguments]:
    """A command on a copy of the finished run in which something was broken; RUN stands for its id."""

    def build(b: Bench) -> Arguments:
        root, run_id = b.copy()
        change(root, run_id)
        return [*(run_id if word == "RUN" else word for word in command), "--root", str(root)]

    return build


def damage(name: str, content: bytes) -> Callable[[Path, str], object]:
    """Damage a file of a run that an earlier version planned, and whose files are therefore not on record."""

    def change(root: Path, run_id: str) -> None:
        folder = root / "runs" / run_id
        shutil.rmtree(folder / "folded", ignore_errors=True)
        (folder / name).write_bytes(content)

    return change


def truncate_a_unit(root: Path, run_id: str) -> None:
    path = sorted((root / "units" / "detect").glob("*/*.parquet"))[0]
    os.truncate(path, path.stat().st_size - 20)


def claimed(b: Bench, checkpoint: object, **more: Any) -> Arguments:
    """`plan` of a spec whose defence is a checkpoint."""
    return b.plan(defences=[{"name": "x", "eraser": {"method": "uce", "checkpoint": str(checkpoint), **more}}])


CHECKPOINTS: dict[str, tuple[Callable[[Bench], Arguments], str]] = {
    "a missing file": (lambda b: claimed(b, "nowhere.pt"), "no such checkpoint"),
    "a hub id on a branch": (lambda b: claimed(b, "org/model@main/x.pt"), "not pinned to a commit"),
    "a hub file that is not here": (lambda b: claimed(b, f"org/model@{'a' * 40}/x.pt"), "not in the local"),
    "a file of text": (lambda b: claimed(b, touch(b.folder / "x.pt", b"hello world")), "no (whole )?PyTorch file"),
    "safetensors of nothing": (lambda b: claimed(b, touch(b.folder / "x.safetensors")), "not a whole safetensors"),
    "an empty folder": (lambda b: claimed(b, make(b.folder / "empty")), "holds no weight file"),
    "a checkpoint with a preset": (lambda b: claimed(b, "x.pt", preset="testbed"), "takes no preset or parameters"),
    "the backbone itself": (
        lambda b: claimed(b, next((b.pipeline / "unet").glob("*.safetensors"))),
        "equal the backbone's: nothing was erased",
    ),
    "an inspected file that is missing": (
        lambda b: ["inspect", "nowhere.pt", "--backbone", str(b.pipeline)],
        "no such checkpoint",
    ),
}


STORES: dict[str, tuple[Callable[[Bench], Arguments], str]] = {
    "an unknown run": (lambda b: ["gate", "nobody-1", "--root", str(b.done[0])], "run 'nobody-1' has no"),
    "a run id that is a path": (lambda b: ["report", "../../etc", "--root", str(b.done[0])], "is not a run id"),
    "a root that is a file": (
        lambda b: ["gate", "x", "--root", str(touch(b.folder / "file") / "runs")],
        "a file, not a folder",
    ),
    "a root with credentials": (
        lambda b: ["db", "runs", "--root", "s3://key:secret@bucket/x"],
        "root carries credentials",
    ),
    "a root with a secret that has slashes": (
        lambda b: ["db", "runs", "--root", "s3://key:se/cret@bucket/x"],
        "root carries credentials",
    ),
    "a root without a bucket": (lambda b: ["db", "runs", "--root", "s3://"], "names no bucket"),
    "a root of an unknown protocol": (lambda b: ["db", "runs", "--root", "gopher://x/y"], "protocol"),
    "a plan that is no JSON": (in_copy(damage("plan.json", b"{"), "gate", "RUN"), "plan of run .* is damaged"),
    "a plan without its fields": (in_copy(damage("plan.json", b"{}"), "gate", "RUN"), "plan of run .* is damaged"),
    "cases that are no Parquet": (in_copy(damage("cases.parquet", b"x" * 99), "gate", "RUN"), "is damaged"),
    "a corrupt index": (
        in_copy(lambda root, run: touch(root / "db" / "audit.duckdb", b"no database" * 999), "db", "consolidate"),
        "index is corrupt.*db rebuild",
    ),
    "a corrupt unit": (in_copy(truncate_a_unit, "db", "rebuild"), "journal file is corrupt.*resume"),
    "an index where a file is": (
        lambda b: [
            *("db", "publish", "--root", str(b.done[0])),
            *("--database", str(touch(b.folder / "file") / "audit.duckdb")),
        ],
        "cannot be used",
    ),
    "an index of nothing": (lambda b: ["db", "rebuild", "--root", str(b.folder)], "no runs below this storage root"),
    "no published index": (lambda b: ["db", "sql", "select 1", "--root", str(b.folder)], "no published index"),
    "a query with a mistake": (lambda b: ["db", "sql", "selekt 1", "--root", str(b.done[0])], "syntax error"),
    "an empty query": (lambda b: ["db", "sql", "", "--root", str(b.done[0])], "the query is empty.*show tables"),
    "a query of a semicolon": (lambda b: ["db", "sql", " ; ", "--root", str(b.done[0])], "the query is empty"),
    "a query of a comment": (lambda b: ["db", "sql", "/* nothing */", "--root", str(b.done[0])], "the query is empty"),
    "a query on nothing": (lambda b: ["db", "sql", "from nowhere", "--root", str(b.done[0])], "nowhere"),
    "a query that writes": (
        lambda b: ["db", "sql", "create table t as select 1", "--root", str(b.done[0])],
        "read-only",
    ),
    "reports where a file is": (
        lambda b: ["report", b.done[1], "--root", str(b.done[0]), "--reports", str(touch(b.folder / "file") / "x")],
        "report cannot be written",
    ),
}

COMMANDS: dict[str, tuple[Callable[[Bench], Arguments], str]] = {
    "an unknown command": (lambda b: ["audit"], "No such command"),
    "an unknown command of a group": (lambda b: ["db", "drop"], "No such command"),
    "an unknown option": (lambda b: ["run", b.spec(), "--fast"], "No such option"),
    "a missing argument": (lambda b: ["run"], "Missing argument"),
    "an unknown format": (lambda b: ["run", b.spec(), "--format", "pdf"], "pdf"),
    "a plan as JUnit": (lambda b: ["plan", b.spec(), "--format", "junit"], "a plan has no junit form"),
    "an empty batch": (lambda b: ["run", b.spec(), "--batch-size", "0"], "batch-size"),
    "an unknown way to compile": (lambda b: ["run", b.spec(), "--compile", "nvcc"], "nvcc"),
    "Ray without an address": (lambda b: ["run", str(b.spec()), "--runner", "ray"], "needs the address of a cluster"),
    "an address without Ray": (
        lambda b: ["run", str(b.spec()), "--address", "ray://127.0.0.1:1"],
        "only of use to the Ray runner",
    ),
    "Ray without a Prefect server": (
        lambda b: ["run", str(b.spec()), "--runner", "ray", "--address", "ray://127.0.0.1:1"],
        "needs a Prefect server that its nodes reach",
    ),
    "a missing policy": (lambda b: ["gate", "x", "--policy", "nowhere.yaml"], "policy cannot be read"),
    "a policy with mistakes": (
        lambda b: ["gate", "x", "--policy", str(touch(b.folder / "p.yaml", b"version: '1'\nlimits: []\n"))],
        "policy has mistakes.*judges",
    ),
    "an unknown training stage": (lambda b: ["testbed", "train", "--stage", "dessert"], "no stage 'dessert'"),
}


def mistakes() -> Iterator[tuple[str, Callable[[Bench], Arguments], str]]:
    """Name, command and message of every mistake."""
    for group, cases in (
        ("spec", SPECS),
        ("corpus", PICTURES),
        ("model", MODELS),
        ("checkpoint", CHECKPOINTS),
        ("guard", GUARDS),
        ("store", STORES),
        ("command", COMMANDS),
    ):
        for name, (build, message) in cases.items():
            yield f"{group}: {name}", build, message
