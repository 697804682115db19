"""Families of transformers: tiny configurations, random weights, nothing is downloaded.

A family is a line: name → (class, configuration class, sizes, inputs). Sizes are kept so small that the whole list
runs in minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

_TEXT = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
         "max_position_embeddings": 40}
_VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "image_size": 32,
        "patch_size": 8}
_DECODER = {**_TEXT, "use_cache": False, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1,
            "eos_token_id": 2}


def _ids(n: int = 8, batch: int = 2) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.randint(3, 60, (batch, n))}


def _masked() -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 60, (2, 8))
    mask = torch.ones(2, 8, dtype=torch.long)
    mask[1, 6:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def _pixels(size: int = 32, batch: int = 1) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(batch, 3, size, size)}


Family = tuple[str, str, dict[str, Any], Callable[[], Any]]

VISION: dict[str, Family] = {
    "resnet": ("ResNetForImageClassification", "ResNetConfig",
               {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "bottleneck"}, _pixels),
    "regnet": ("RegNetForImageClassification", "RegNetConfig",
               {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "groups_width": 4}, _pixels),
    "mobilenet_v1": ("MobileNetV1ForImageClassification", "MobileNetV1Config", {"depth_multiplier": 0.25}, _pixels),
    "mobilenet_v2": ("MobileNetV2ForImageClassification", "MobileNetV2Config", {"depth_multiplier": 0.25}, _pixels),
    "efficientnet": ("EfficientNetForImageClassification", "EfficientNetConfig",
                     {"image_size": 32, "hidden_dim": 1280, "in_channels": [32, 8], "out_channels": [8, 12],
                      "kernel_sizes": [3, 5], "strides": [1, 2], "num_block_repeats": [1, 2], "expand_ratios": [1, 4],
                      "depth_divisor": 4, "depthwise_padding": [],
                      "width_coefficient": 1.0, "depth_coefficient": 1.0}, _pixels),
    "convnext": ("ConvNextForImageClassification", "ConvNextConfig",
                 {"hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 1, 1]}, _pixels),
    "convnextv2": ("ConvNextV2ForImageClassification", "ConvNextV2Config",
                   {"hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 1, 1]}, _pixels),
    "levit": ("LevitForImageClassification", "LevitConfig",
              {"image_size": 64, "hidden_sizes": [16, 24, 32], "num_attention_heads": [2, 3, 4], "depths": [1, 1, 1],
               "key_dim": [4, 4, 4]}, lambda: _pixels(64)),
    "bit": ("BitForImageClassification", "BitConfig",
            {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1], "num_groups": 2}, _pixels),
    "cvt": ("CvtForImageClassification", "CvtConfig",
            {"embed_dim": [16, 24, 32], "num_heads": [1, 2, 4], "depth": [1, 2, 3]}, lambda: _pixels(64)),
    "pvt": ("PvtForImageClassification", "PvtConfig",
            {"image_size": 64, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1],
             "num_attention_heads": [1, 2, 2, 4]}, lambda: _pixels(64)),
    "pvt_v2": ("PvtV2ForImageClassification", "PvtV2Config",
               {"image_size": 64, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1],
                "num_attention_heads": [1, 2, 2, 4]}, lambda: _pixels(64)),
    "swin": ("SwinForImageClassification", "SwinConfig",
             {"image_size": 32, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4,
              "patch_size": 2}, _pixels),
    "swinv2": ("Swinv2ForImageClassification", "Swinv2Config",
               {"image_size": 32, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4,
                "patch_size": 2}, _pixels),
    "focalnet": ("FocalNetForImageClassification", "FocalNetConfig",
                 {"image_size": 32, "embed_dim": 16, "depths": [1, 1], "focal_levels": [2, 2],
                  "focal_windows": [3, 3], "hidden_sizes": [16, 32]}, _pixels),
    "vit": ("ViTForImageClassification", "ViTConfig", _VIT, _pixels),
    "deit": ("DeiTForImageClassification", "DeiTConfig", _VIT, _pixels),
    "dinov2": ("Dinov2ForImageClassification", "Dinov2Config", _VIT, _pixels),
    "beit": ("BeitForImageClassification", "BeitConfig",
             {**_VIT, "use_relative_position_bias": True, "use_mean_pooling": True}, _pixels),
    "vit_msn": ("ViTMSNForImageClassification", "ViTMSNConfig", _VIT, _pixels),
    "vit_mae": ("ViTMAEModel", "ViTMAEConfig", _VIT, lambda: {**_pixels(), "noise": torch.rand(1, 16)}),
    "siglip_vision": ("SiglipVisionModel", "SiglipVisionConfig", _VIT, _pixels),
    "clip_vision": ("CLIPVisionModel", "CLIPVisionConfig", _VIT, _pixels),
    "mobilevit": ("MobileViTForImageClassification", "MobileViTConfig",
                  {"image_size": 64, "hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 12, 16, 20, 24, 32],
                   "num_attention_heads": 4}, lambda: _pixels(64)),
    "mobilevitv2": ("MobileViTV2ForImageClassification", "MobileViTV2Config",
                    {"image_size": 64, "width_multiplier": 0.25, "base_attn_unit_dims": [32, 32, 32],
                     "n_attn_blocks": [1, 1, 1]}, lambda: _pixels(64)),
    "poolformer": ("PoolFormerForImageClassification", "PoolFormerConfig",
                   {"hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 1, 1]}, lambda: _pixels(64)),
    "segformer": ("SegformerForSemanticSegmentation", "SegformerConfig",
                  {"hidden_sizes": [8, 12, 16, 24], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 2, 4],
                   "decoder_hidden_size": 16}, lambda: _pixels(64)),
    "dpt": ("DPTForDepthEstimation", "DPTConfig",
            {**_VIT, "num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3], "is_hybrid": False,
             "neck_hidden_sizes": [8, 12, 16, 20], "fusion_hidden_size": 12}, _pixels),
    "yolos": ("YolosForObjectDetection", "YolosConfig",
              {**_VIT, "image_size": [32, 32], "num_detection_tokens": 5}, _pixels),
    "swiftformer": ("SwiftFormerForImageClassification", "SwiftFormerConfig",
                    {"depths": [1, 1, 1, 1], "embed_dims": [8, 12, 16, 20]}, lambda: _pixels(64)),
    "glpn": ("GLPNForDepthEstimation", "GLPNConfig",
             {"hidden_sizes": [8, 12, 16, 24], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 2, 4],
              "decoder_hidden_size": 16}, lambda: _pixels(64)),
    "upernet": ("UperNetForSemanticSegmentation", "UperNetConfig", {"hidden_size": 16, "auxiliary_channels": 8},
                lambda: _pixels(64)),
    "hiera": ("HieraForImageClassification", "HieraConfig",
              {"embed_dim": 16, "image_size": [64, 64], "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]},
              lambda: _pixels(64)),
    "vitdet": ("VitDetModel", "VitDetConfig",
               {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32,
                "pretrain_image_size": 32, "patch_size": 8}, _pixels),
    "timesformer": ("TimesformerForVideoClassification", "TimesformerConfig", {**_VIT, "num_frames": 2},
                    lambda: {"pixel_values": torch.randn(1, 2, 3, 32, 32)}),
    "videomae": ("VideoMAEForVideoClassification", "VideoMAEConfig", {**_VIT, "num_frames": 4},
                 lambda: {"pixel_values": torch.randn(1, 4, 3, 32, 32)}),
    "vivit": ("VivitForVideoClassification", "VivitConfig", {**_VIT, "num_frames": 4, "tubelet_size": [2, 8, 8]},
              lambda: {"pixel_values": torch.randn(1, 4, 3, 32, 32)}),
}

TEXT: dict[str, Family] = {
    "bert": ("BertForSequenceClassification", "BertConfig", _TEXT, _masked),
    "roberta": ("RobertaForSequenceClassification", "RobertaConfig", _TEXT, _masked),
    "albert": ("AlbertForSequenceClassification", "AlbertConfig", {**_TEXT, "embedding_size": 16}, _masked),
    "electra": ("ElectraForSequenceClassification", "ElectraConfig", {**_TEXT, "embedding_size": 16}, _masked),
    "distilbert": ("DistilBertForSequenceClassification", "DistilBertConfig",
                   {"vocab_size": 60, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}, _masked),
    "deberta_v2": ("DebertaV2ForSequenceClassification", "DebertaV2Config",
                   {**_TEXT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8},
                   _masked),
    "deberta": ("DebertaForSequenceClassification", "DebertaConfig",
                {**_TEXT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}, _masked),
    "mpnet": ("MPNetForSequenceClassification", "MPNetConfig", _TEXT, _masked),
    "mobilebert": ("MobileBertForSequenceClassification", "MobileBertConfig",
                   {**_TEXT, "embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16}, _masked),
    "squeezebert": ("SqueezeBertForSequenceClassification", "SqueezeBertConfig", {**_TEXT, "embedding_size": 32},
                    _masked),
    "convbert": ("ConvBertForSequenceClassification", "ConvBertConfig", {**_TEXT, "embedding_size": 16}, _masked),
    "xlnet": ("XLNetForSequenceClassification", "XLNetConfig",
              {"vocab_size": 60, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48, "use_mems_eval": False},
              _ids),
    "funnel": ("FunnelForSequenceClassification", "FunnelConfig",
               {"vocab_size": 60, "block_sizes": [1, 1], "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 48}, _ids),
    "fnet": ("FNetForSequenceClassification", "FNetConfig", _TEXT, _ids),
    "nystromformer": ("NystromformerForSequenceClassification", "NystromformerConfig",
                      {**_TEXT, "segment_means_seq_len": 8, "num_landmarks": 8, "conv_kernel_size": 3}, _ids),
    "longformer": ("LongformerForSequenceClassification", "LongformerConfig", {**_TEXT, "attention_window": 4}, _ids),
    "bigbird": ("BigBirdForSequenceClassification", "BigBirdConfig", {**_TEXT, "attention_type": "original_full"},
                _ids),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config",
             {"vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40, "use_cache": False}, _ids),
    "gpt_neo": ("GPTNeoForCausalLM", "GPTNeoConfig",
                {"vocab_size": 60, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_position_embeddings": 40,
                 "attention_types": [[["global", "local"], 1]], "window_size": 4, "use_cache": False}, _ids),
    "gpt_neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", _DECODER, _ids),
    "gptj": ("GPTJForCausalLM", "GPTJConfig",
             {"vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40, "rotary_dim": 4,
              "use_cache": False}, _ids),
    "gpt_bigcode": ("GPTBigCodeForCausalLM", "GPTBigCodeConfig",
                    {"vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40,
                     "use_cache": False}, _ids),
    "codegen": ("CodeGenForCausalLM", "CodeGenConfig",
                {"vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40, "rotary_dim": 4,
                 "use_cache": False}, _ids),
    "opt": ("OPTForCausalLM", "OPTConfig",
            {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 48,
             "max_position_embeddings": 40, "word_embed_proj_dim": 16, "use_cache": False}, _ids),
    "bloom": ("BloomForCausalLM", "BloomConfig",
              {"vocab_size": 60, "hidden_size": 32, "n_layer": 2, "n_head": 4, "use_cache": False}, _ids),
    "falcon": ("FalconForCausalLM", "FalconConfig",
               {**_DECODER, "new_decoder_architecture": True, "num_kv_heads": 2}, _ids),
    "mpt": ("MptForCausalLM", "MptConfig",
            {"vocab_size": 60, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 40, "use_cache": False},
            _ids),
    "llama": ("LlamaForCausalLM", "LlamaConfig", _DECODER, _ids),
    "mistral": ("MistralForCausalLM", "MistralConfig", {**_DECODER, "sliding_window": 4}, _ids),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", {**_DECODER, "num_local_experts": 2}, _ids),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", _DECODER, _ids),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", {**_DECODER, "head_dim": 8}, _ids),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", {**_DECODER, "head_dim": 8}, _ids),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", {**_DECODER, "head_dim": 8, "query_pre_attn_scalar": 8}, _ids),
    "phi": ("PhiForCausalLM", "PhiConfig", _DECODER, _ids),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", {**_DECODER, "pad_token_id": 0}, _ids),
    "stablelm": ("StableLmForCausalLM", "StableLmConfig", _DECODER, _ids),
    "starcoder2": ("Starcoder2ForCausalLM", "Starcoder2Config", _DECODER, _ids),
    "olmo": ("OlmoForCausalLM", "OlmoConfig", _DECODER, _ids),
    "cohere": ("CohereForCausalLM", "CohereConfig", _DECODER, _ids),
    "granite": ("GraniteForCausalLM", "GraniteConfig", _DECODER, _ids),
    "smollm3": ("SmolLM3ForCausalLM", "SmolLM3Config", _DECODER, _ids),
    "t5_encoder": ("T5EncoderModel", "T5Config",
                   {"vocab_size": 60, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}, _masked),
    "t5": ("T5ForConditionalGeneration", "T5Config",
           {"vocab_size": 60, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "use_cache": False,
            "decoder_start_token_id": 0}, lambda: {**_ids(), "decoder_input_ids": torch.randint(3, 60, (2, 5))}),
    "bart": ("BartModel", "BartConfig",
             {"vocab_size": 60, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4,
              "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 40,
              "use_cache": False}, lambda: {**_ids(), "decoder_input_ids": torch.randint(3, 60, (2, 5))}),
    "mamba": ("MambaForCausalLM", "MambaConfig",
              {"vocab_size": 60, "hidden_size": 16, "state_size": 4, "num_hidden_layers": 1, "use_cache": False}, _ids),
    "rwkv": ("RwkvModel", "RwkvConfig",
             {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "attention_hidden_size": 16,
              "rescale_every": 0, "use_cache": False}, lambda: _ids(4)),
    "modernbert": ("ModernBertForSequenceClassification", "ModernBertConfig",
                   {**_TEXT, "pad_token_id": 0, "reference_compile": False, "local_attention": 4}, _masked),
    "canine": ("CanineModel", "CanineConfig", {**_TEXT, "local_transformer_stride": 8, "num_hash_buckets": 32}, _ids),
    "roformer": ("RoFormerForSequenceClassification", "RoFormerConfig", {**_TEXT, "embedding_size": 32}, _masked),
    "ibert": ("IBertForSequenceClassification", "IBertConfig", _TEXT, _masked),
    "xlm_roberta": ("XLMRobertaForTokenClassification", "XLMRobertaConfig", _TEXT, _masked),
}

_SPEECH = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
           "conv_dim": (8, 8), "conv_stride": (5, 4), "conv_kernel": (10, 8), "num_conv_pos_embeddings": 8,
           "num_conv_pos_embedding_groups": 2, "num_feat_extract_layers": 2}
_SERIES = {"prediction_length": 4, "context_length": 16}

OTHER: dict[str, Family] = {
    "wav2vec2": ("Wav2Vec2ForCTC", "Wav2Vec2Config", {**_SPEECH, "vocab_size": 12, "apply_spec_augment": False},
                 lambda: {"input_values": torch.randn(2, 400)}),
    "hubert": ("HubertModel", "HubertConfig", {**_SPEECH, "apply_spec_augment": False},
               lambda: {"input_values": torch.randn(2, 400)}),
    "wavlm": ("WavLMModel", "WavLMConfig", {**_SPEECH, "apply_spec_augment": False, "num_buckets": 8},
              lambda: {"input_values": torch.randn(2, 400)}),
    "sew": ("SEWModel", "SEWConfig", {**_SPEECH, "squeeze_factor": 2, "apply_spec_augment": False},
            lambda: {"input_values": torch.randn(2, 400)}),
    "data2vec_vision": ("Data2VecVisionForImageClassification", "Data2VecVisionConfig", _VIT, _pixels),
    "audio_spectrogram": ("ASTForAudioClassification", "ASTConfig",
                          {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
                           "num_mel_bins": 32, "max_length": 32, "patch_size": 8, "frequency_stride": 8,
                           "time_stride": 8}, lambda: {"input_values": torch.randn(2, 32, 32)}),
    "clip": ("CLIPModel", "CLIPConfig",
             {"text_config": {**_TEXT, "eos_token_id": 2}, "vision_config": _VIT, "projection_dim": 16},
             lambda: {**_ids(), **_pixels(batch=2)}),
    "perceiver": ("PerceiverModel", "PerceiverConfig",
                  {"d_latents": 16, "num_latents": 4, "d_model": 12, "num_blocks": 1, "num_self_attends_per_block": 1,
                   "num_self_attention_heads": 2, "num_cross_attention_heads": 2},
                  lambda: {"inputs": torch.randn(2, 6, 12)}),
    "patchtst": ("PatchTSTForPrediction", "PatchTSTConfig",
                 {**_SERIES, "num_input_channels": 2, "patch_length": 4, "patch_stride": 4, "d_model": 16,
                  "num_attention_heads": 2, "num_hidden_layers": 1, "ffn_dim": 24, "do_mask_input": False},
                 lambda: {"past_values": torch.randn(2, 16, 2)}),
    "patchtsmixer": ("PatchTSMixerForPrediction", "PatchTSMixerConfig",
                     {**_SERIES, "num_input_channels": 2, "patch_length": 4, "patch_stride": 4, "d_model": 16,
                      "num_layers": 1}, lambda: {"past_values": torch.randn(2, 16, 2)}),
    "decision": ("DecisionTransformerModel", "DecisionTransformerConfig",
                 {"state_dim": 4, "act_dim": 2, "hidden_size": 16, "n_layer": 1, "n_head": 2, "n_positions": 40},
                 lambda: {"states": torch.randn(2, 3, 4), "actions": torch.randn(2, 3, 2),
                          "rewards": torch.randn(2, 3, 1), "returns_to_go": torch.randn(2, 3, 1),
                          "timesteps": torch.randint(0, 9, (2, 3)), "attention_mask": torch.ones(2, 3)}),
}

FAMILIES = {**VISION, **TEXT, **OTHER}


def _model(name: str) -> tuple[nn.Module, Any]:
    import transformers

    if name == "whisper_encoder":
        from transformers.models.whisper.modeling_whisper import WhisperEncoder

        config = transformers.WhisperConfig(d_model=32, encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=48,
                                            num_mel_bins=16, max_source_positions=16)
        return WhisperEncoder(config), torch.randn(1, 16, 32)
    if name == "detr":
        backbone = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic",
                                             out_features=["stage2"])
        config = transformers.DetrConfig(use_timm_backbone=False, backbone_config=backbone, backbone=None, d_model=32,
                                         encoder_layers=1, decoder_layers=1, encoder_attention_heads=4, num_queries=5,
                                         decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48,
                                         use_pretrained_backbone=False)
        return transformers.DetrForObjectDetection(config), _pixels(64)
    kind, configuration, sizes, inputs = FAMILIES[name]
    if name == "upernet":
        sizes = {**sizes, "backbone_config": transformers.ConvNextConfig(
            hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 1, 1], out_features=["stage1", "stage2", "stage3", "stage4"]),
            "auxiliary_in_channels": 16}
    config = getattr(transformers, configuration)(**sizes)
    return getattr(transformers, kind)(config), inputs()


MODELS = [*FAMILIES, "whisper_encoder", "detr"]


def build(name: str) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    return _model(name)
