"""Whole networks with random weights, small inputs: what the sums over nodes are checked against.

Nothing here is trained and nothing is downloaded: instruction counts depend on shapes only.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from torch import nn

from autoprune.graph.onnx import export_onnx

__all__ = ["INT8", "NETS", "net_bytes"]


def image(side: int) -> tuple[torch.Tensor, ...]:
    """One RGB image."""
    return (torch.zeros(1, 3, side, side),)


def words(length: int) -> tuple[torch.Tensor, ...]:
    """One line of token numbers."""
    return (torch.ones(1, length, dtype=torch.int64),)


class Tagger(nn.Module):
    """Embedding, a two-layer LSTM, a classifier per token."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm = nn.Embedding(500, 128), nn.LSTM(128, 192, 2, batch_first=True)
        self.head = nn.Linear(192, 20)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(1, length) → (1, length, 20)."""
        return self.head(self.lstm(self.embed(tokens))[0])


class UNet(nn.Module):
    """Two levels, plain convolutions, pooling down and bilinear resizing up, concatenated skips."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        def double(cin: int, cout: int) -> nn.Module:
            return nn.Sequential(nn.Conv2d(cin, cout, 3, padding=1), nn.BatchNorm2d(cout), nn.ReLU(),
                                 nn.Conv2d(cout, cout, 3, padding=1), nn.BatchNorm2d(cout), nn.ReLU())
        self.a, self.b, self.c = double(3, width), double(width, 2 * width), double(2 * width, 4 * width)
        self.d, self.e = double(6 * width, 2 * width), double(3 * width, width)
        self.pool, self.up = nn.MaxPool2d(2), nn.Upsample(scale_factor=2, mode="bilinear")
        self.head = nn.Conv2d(width, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(1, 3, side, side) → (1, 4, side, side)."""
        a = self.a(x)
        b = self.b(self.pool(a))
        c = self.up(self.c(self.pool(b)))
        d = self.up(self.d(torch.cat([b, c], 1)))
        return self.head(self.e(torch.cat([a, d], 1)))


def _encoder(kind: type[Any], **sizes: Any) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = kind(sizes.pop("config")(**sizes))
    return model


def _small_text(config: type[Any], kind: type[Any]) -> nn.Module:
    return _encoder(kind, config=config, vocab_size=1000, hidden_size=192, num_hidden_layers=4, num_attention_heads=4,
                    intermediate_size=768)


NETS: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "resnet18": lambda: (_encoder(hf.ResNetForImageClassification, config=hf.ResNetConfig, layer_type="basic",
                                  hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2]), image(128)),
    "resnet50": lambda: (_encoder(hf.ResNetForImageClassification, config=hf.ResNetConfig), image(96)),
    "mobilenet-v1": lambda: (_encoder(hf.MobileNetV1ForImageClassification, config=hf.MobileNetV1Config), image(160)),
    "mobilenet-v2": lambda: (_encoder(hf.MobileNetV2ForImageClassification, config=hf.MobileNetV2Config), image(160)),
    "regnet-y": lambda: (_encoder(hf.RegNetForImageClassification, config=hf.RegNetConfig, layer_type="y",
                                  embedding_size=32, hidden_sizes=[48, 104, 208, 440], depths=[1, 3, 6, 6],
                                  groups_width=8), image(128)),
    "efficientnet-b0": lambda: (_encoder(hf.EfficientNetForImageClassification, config=hf.EfficientNetConfig,
                                         width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280), image(128)),
    "convnext": lambda: (_encoder(hf.ConvNextForImageClassification, config=hf.ConvNextConfig,
                                  hidden_sizes=[40, 80, 160, 320], depths=[2, 2, 6, 2]), image(128)),
    "mobilevit": lambda: (_encoder(hf.MobileViTForImageClassification, config=hf.MobileViTConfig, image_size=128,
                                   hidden_sizes=[64, 80, 96], neck_hidden_sizes=[16, 16, 24, 48, 64, 80, 320],
                                   expand_ratio=2.0), image(128)),
    "vit": lambda: (_encoder(hf.ViTForImageClassification, config=hf.ViTConfig, image_size=128, hidden_size=192,
                             num_attention_heads=3, intermediate_size=768, num_hidden_layers=6), image(128)),
    "swin": lambda: (_encoder(hf.SwinForImageClassification, config=hf.SwinConfig, image_size=112, embed_dim=48,
                              depths=[2, 2, 2], num_heads=[2, 4, 8]), image(112)),
    "segformer": lambda: (_encoder(hf.SegformerForSemanticSegmentation, config=hf.SegformerConfig), image(128)),
    "poolformer": lambda: (_encoder(hf.PoolFormerForImageClassification, config=hf.PoolFormerConfig,
                                    hidden_sizes=[32, 64, 160, 256]), image(96)),
    "bert": lambda: (_small_text(hf.BertConfig, hf.BertModel), words(64)),
    "gpt2": lambda: (_encoder(hf.GPT2Model, config=hf.GPT2Config, vocab_size=1000, n_embd=192, n_layer=4, n_head=4,
                              use_cache=False), words(48)),
    "lstm": lambda: (Tagger(), words(40)),
    "unet": lambda: (UNet(), image(96)),
    # counted after the formulas were final; nothing was changed for them
    "convnext-v2": lambda: (_encoder(hf.ConvNextV2ForImageClassification, config=hf.ConvNextV2Config,
                                     hidden_sizes=[32, 64, 128, 256], depths=[2, 2, 4, 2]), image(112)),
    "pvt": lambda: (_encoder(hf.PvtForImageClassification, config=hf.PvtConfig, image_size=96,
                             hidden_sizes=[32, 64, 160, 256]), image(96)),
    "levit": lambda: (_encoder(hf.LevitForImageClassification, config=hf.LevitConfig), image(224)),
    "distilbert": lambda: (_encoder(hf.DistilBertModel, config=hf.DistilBertConfig, vocab_size=1000, dim=256,
                                    n_layers=3,
                                    n_heads=4, hidden_dim=1024), words(40)),
}
"""Name → (model, example inputs)."""

INT8 = ("resnet18", "mobilenet-v2", "vit")
"""Nets that are counted quantised as well, under NAME-int8."""


def net_bytes(name: str) -> bytes:
    """The network as ONNX, batch 1; "NAME-int8" is quantised statically. Raises `KeyError` for an unknown name."""
    torch.manual_seed(0)
    model, inputs = NETS[name.removesuffix("-int8")]()
    exported = export_onnx(model.eval(), inputs, dynamic_batch=False)
    return _quantised(exported, inputs[0].numpy()) if name.endswith("-int8") else exported


def _quantised(exported: bytes, example: Any) -> bytes:
    """onnxruntime's own static quantisation (QDQ, uint8 activations, int8 weights per channel), one random sample."""
    import onnx
    from onnxruntime.quantization import QuantType, quant_pre_process, quantize_static

    class One:
        def __init__(self) -> None:
            name = onnx.load_model_from_string(exported).graph.input[0].name
            self.samples = iter([{name: torch.randn(example.shape).numpy()}])

        def get_next(self) -> Any:
            return next(self.samples, None)

    with tempfile.TemporaryDirectory() as folder:
        source, ready, target = (Path(folder) / n for n in ("a.onnx", "b.onnx", "c.onnx"))
        source.write_bytes(exported)
        quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
        quantize_static(str(ready), str(target), One(), per_channel=True, activation_type=QuantType.QUInt8,
                        weight_type=QuantType.QInt8)
        return target.read_bytes()
