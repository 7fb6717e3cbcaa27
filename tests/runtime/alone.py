"""Run in a process that has nothing but the runtime: load a bundle, use all of it, and say what that took.

    python alone.py BUNDLE REQUEST     (REQUEST: JSON with prompts, capabilities, tools)

Importing the pipeline, a teacher or a capability pack is refused, and so is the network; after the load, so is the disk.
"""

from __future__ import annotations

import json
import sys

REFUSED_IMPORTS = (
    *("nexus_teacher_", "nexus_capability_"),
    *(f"nexus_core.{part}" for part in ("cli", "testing", "registry", "state", "data", "hf.load", "hf.teacher")),
    *(
        f"nexus_core.{part}"
        for part in ("distill", "architect", "study", "profiling", "evaluation", "gate", "pipeline")
    ),
    *(f"nexus_core.{part}" for part in ("template", "streaming", "refine", "bundle.writer", "bundle.export")),
)
DISK = ("open", "os.listdir", "os.scandir", "mmap.__new__", "subprocess.Popen", "os.exec", "os.posix_spawn")
NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.bind", "socket.sendto")
refused: list[str] = []
closed: list[str] = []  # "disk" in it: from now on


class Guard:
    """Before every other finder."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name.startswith(REFUSED_IMPORTS):
            refused.append(f"import {name}")
            raise ModuleNotFoundError(f"{name} is not for a consumer", name=name)


def watch(event: str, arguments: tuple[object, ...]) -> None:
    if event in NETWORK or (closed and event in DISK):
        refused.append(f"{event} {arguments[:1]}")
        raise PermissionError(f"{event} is refused")


def main(bundle: str, request: dict) -> dict:
    sys.meta_path.insert(0, Guard)
    sys.addaudithook(watch)
    import nexus

    light = "torch" not in sys.modules
    model = nexus.NexusModel.load(bundle)
    closed.append("disk")
    answers = {
        name: {
            "generated": model.generate(request["prompts"], name),
            "streamed": ["".join(model.stream(prompt, name)) for prompt in request["prompts"]],
            "drawn": model.generate(request["prompts"], name, temperature=1.0, seed=3),
        }
        for name in request["capabilities"]
    }
    try:
        call = str(model.generate(request["prompts"][0], "tools", tools=request["tools"]))
    except nexus.NexusError as error:  # a random student writes no call
        call = error.message
    routes = [model.route(prompt).capability for prompt in request["prompts"]]
    modules = sorted({name.split(".")[0] for name in sys.modules})
    return {"light": light, "answers": answers, "call": call, "routes": routes, "refused": refused, "modules": modules}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], json.loads(sys.argv[2]))))
