"""Loading says nothing, and leaves the libraries as it found them."""

from nexus_teacher_gguf.conformance import write_tiny_llama

from nexus_core.plugins import Plugins
from nexus_core.types import ModelSource


def test_loading_draws_no_bar(tmp_path, capfd):
    from transformers import modeling_gguf_pytorch_utils as module

    bar = module.tqdm
    write_tiny_llama(tmp_path / "tiny.gguf")
    capfd.readouterr()
    assert Plugins().load_teacher(ModelSource(tmp_path / "tiny.gguf")).plugin == "gguf"
    assert capfd.readouterr().err == ""
    assert module.tqdm is bar
