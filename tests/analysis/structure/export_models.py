"""Exports tiny networks with random weights the way users do: the inputs of exports_test.cc.

    python export_models.py OUT [--only NAME,...] [--variants NAME,...] [--layers N]   networks into OUT, one file a variant
    python export_models.py OUT --pack exports.npz                        what OUT holds, weights blanked, for the test

Needs torch, transformers, timm, onnx, onnxscript and onnxruntime (not needed by the test). Variants: ts<opset>
(TorchScript), dy<opset> (dynamo, all sizes free) and st<opset> (dynamo, fixed sizes), ort (ts17 or the like written by
an ONNX Runtime session at level extended), fused (by onnxruntime.transformers), half (float16).
"""

import argparse
import copy
import pathlib
import sys
import traceback
import warnings

import numpy as np
import onnx
import torch
from torch import nn

WIDTH, HEADS, KV, HIDDEN, LAYERS, VOCAB = 16, 4, 2, 40, 2, 32
BATCH, TOKENS = 2, 6
MODELS = {}


class Network:
    """A module with example inputs by name; `free` maps inputs (and outputs) to {axis: name}."""

    def __init__(self, module, inputs, free, outputs, kind=None):
        self.module, self.inputs, self.free, self.outputs, self.kind = module.eval(), inputs, free, outputs, kind


class Call(nn.Module):
    """Positional inputs, and one tensor (or a tuple of them) as the result."""

    def __init__(self, module, names, pick, **fixed):
        super().__init__()
        self.module, self.names, self.pick, self.fixed = module, names, pick, fixed

    def forward(self, *args):
        return self.pick(self.module(**dict(zip(self.names, args)), **self.fixed))


def model(function):
    MODELS[function.__name__] = function
    return function


def ids(length=TOKENS):
    return torch.randint(1, VOCAB, (BATCH, length))


def hidden(output):
    return output.last_hidden_state


def logits(output):
    return output.logits


def text(module, pick=hidden, mask=True, kind=None, **fixed):
    inputs = {"input_ids": ids()}
    if mask:
        inputs["attention_mask"] = torch.tensor([[1] * TOKENS, [1] * (TOKENS - 2) + [0] * 2])
    free = {name: {0: "batch", 1: "tokens"} for name in inputs}
    return Network(Call(module, list(inputs), pick, **fixed), inputs, {**free, "y": {0: "batch", 1: "tokens"}}, ["y"], kind)


def image(module, pick, size=32, channels=3):
    inputs = {"pixel_values": torch.randn(BATCH, channels, size, size)}
    return Network(Call(module, list(inputs), pick), inputs, {"pixel_values": {0: "batch"}, "y": {0: "batch"}}, ["y"])


def config(name, attn, **options):
    import transformers

    made = getattr(transformers, name)(**options)
    made._attn_implementation = attn
    return made


# ---- encoders of text ----


@model
def bert(attn):
    from transformers import BertModel

    c = config("BertConfig", attn, vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
               intermediate_size=HIDDEN, max_position_embeddings=32)
    return text(BertModel(c), kind="bert")


@model
def distilbert(attn):
    from transformers import DistilBertModel

    c = config("DistilBertConfig", attn, vocab_size=VOCAB, dim=WIDTH, n_layers=LAYERS, n_heads=HEADS, hidden_dim=HIDDEN,
               max_position_embeddings=32)
    return text(DistilBertModel(c), kind="bert")


@model
def roberta(attn):
    from transformers import RobertaModel

    c = config("RobertaConfig", attn, vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
               intermediate_size=HIDDEN, max_position_embeddings=34, pad_token_id=1)
    return text(RobertaModel(c), kind="bert")


@model
def mpnet(attn):
    from transformers import MPNetModel

    c = config("MPNetConfig", attn, vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
               intermediate_size=HIDDEN, max_position_embeddings=34)
    return text(MPNetModel(c))


@model
def albert(attn):
    from transformers import AlbertModel

    c = config("AlbertConfig", attn, vocab_size=VOCAB, embedding_size=8, hidden_size=WIDTH, num_hidden_layers=LAYERS,
               num_attention_heads=HEADS, intermediate_size=HIDDEN, max_position_embeddings=32)
    return text(AlbertModel(c), kind="bert")


@model
def electra(attn):
    from transformers import ElectraModel

    c = config("ElectraConfig", attn, vocab_size=VOCAB, embedding_size=8, hidden_size=WIDTH, num_hidden_layers=LAYERS,
               num_attention_heads=HEADS, intermediate_size=HIDDEN, max_position_embeddings=32)
    return text(ElectraModel(c), kind="bert")


@model
def deberta(attn):
    from transformers import DebertaV2Model

    c = config("DebertaV2Config", "eager", vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=LAYERS,
               num_attention_heads=HEADS, intermediate_size=HIDDEN, max_position_embeddings=32, relative_attention=True,
               position_buckets=8, pos_att_type=["p2c", "c2p"], norm_rel_ebd="layer_norm", share_att_key=True,
               position_biased_input=False)
    return text(DebertaV2Model(c))


@model
def modernbert(attn):
    from transformers import ModernBertModel

    c = config("ModernBertConfig", attn, vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
               intermediate_size=HIDDEN, max_position_embeddings=32, local_attention=4, global_attn_every_n_layers=2,
               pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2)
    return text(ModernBertModel(c))


@model
def t5_encoder(attn):
    from transformers import T5EncoderModel

    c = config("T5Config", attn, vocab_size=VOCAB, d_model=WIDTH, d_kv=4, d_ff=HIDDEN, num_layers=LAYERS, num_heads=HEADS,
               relative_attention_num_buckets=8)
    return text(T5EncoderModel(c))


@model
def t5_gated_encoder(attn):
    from transformers import T5EncoderModel

    c = config("T5Config", attn, vocab_size=VOCAB, d_model=WIDTH, d_kv=8, d_ff=HIDDEN, num_layers=LAYERS, num_heads=HEADS,
               relative_attention_num_buckets=8, feed_forward_proj="gated-gelu")
    return text(T5EncoderModel(c))


# ---- decoders ----


def decoder(name, module_name, attn, pick=logits, **options):
    import transformers

    base = dict(vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
                num_key_value_heads=KV, intermediate_size=HIDDEN, max_position_embeddings=32, pad_token_id=0,
                bos_token_id=1, eos_token_id=2)
    c = config(name, attn, **{**base, **options})
    return text(getattr(transformers, module_name)(c), pick, use_cache=False)


@model
def gpt2(attn):
    from transformers import GPT2LMHeadModel

    c = config("GPT2Config", attn, vocab_size=VOCAB, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_inner=HIDDEN, n_positions=32,
               bos_token_id=1, eos_token_id=2)
    return text(GPT2LMHeadModel(c), logits, kind="gpt2", use_cache=False)


@model
def llama(attn):
    return decoder("LlamaConfig", "LlamaForCausalLM", attn)


@model
def llama_multi_query(attn):
    return decoder("LlamaConfig", "LlamaForCausalLM", attn, num_key_value_heads=1, tie_word_embeddings=True)


@model
def mistral(attn):
    return decoder("MistralConfig", "MistralForCausalLM", attn, sliding_window=4)


@model
def qwen2(attn):
    return decoder("Qwen2Config", "Qwen2ForCausalLM", attn)


@model
def qwen3(attn):
    return decoder("Qwen3Config", "Qwen3ForCausalLM", attn, head_dim=8)


@model
def gemma(attn):
    return decoder("GemmaConfig", "GemmaForCausalLM", attn, head_dim=8)


@model
def gemma2(attn):
    return decoder("Gemma2Config", "Gemma2ForCausalLM", attn, head_dim=8, query_pre_attn_scalar=8, sliding_window=4)


@model
def gemma3(attn):
    return decoder("Gemma3TextConfig", "Gemma3ForCausalLM", attn, head_dim=8, query_pre_attn_scalar=8, sliding_window=4)


@model
def phi(attn):
    return decoder("PhiConfig", "PhiForCausalLM", attn, num_key_value_heads=HEADS, partial_rotary_factor=0.5)


@model
def phi3(attn):
    return decoder("Phi3Config", "Phi3ForCausalLM", attn)


@model
def olmo2(attn):
    return decoder("Olmo2Config", "Olmo2ForCausalLM", attn)


@model
def granite(attn):
    return decoder("GraniteConfig", "GraniteForCausalLM", attn, residual_multiplier=0.5, attention_multiplier=0.25)


@model
def stablelm(attn):
    return decoder("StableLmConfig", "StableLmForCausalLM", attn, use_parallel_residual=True, partial_rotary_factor=0.5)


@model
def gpt_neox(attn):
    from transformers import GPTNeoXForCausalLM

    c = config("GPTNeoXConfig", attn, vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
               intermediate_size=HIDDEN, max_position_embeddings=32, rotary_pct=0.5)
    return text(GPTNeoXForCausalLM(c), logits, use_cache=False)


@model
def gptj(attn):
    from transformers import GPTJForCausalLM

    c = config("GPTJConfig", "eager", vocab_size=VOCAB, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_inner=HIDDEN,
               n_positions=32, rotary_dim=4)
    return text(GPTJForCausalLM(c), logits, use_cache=False)


@model
def falcon(attn):
    from transformers import FalconForCausalLM

    c = config("FalconConfig", attn, vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
               ffn_hidden_size=HIDDEN, multi_query=True, parallel_attn=True, new_decoder_architecture=False, alibi=False)
    return text(FalconForCausalLM(c), logits, use_cache=False)


@model
def bloom(attn):
    from transformers import BloomForCausalLM

    c = config("BloomConfig", attn, vocab_size=VOCAB, hidden_size=WIDTH, n_layer=LAYERS, n_head=HEADS)
    return text(BloomForCausalLM(c), logits, use_cache=False)


@model
def opt(attn):
    from transformers import OPTForCausalLM

    c = config("OPTConfig", attn, vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
               ffn_dim=HIDDEN, max_position_embeddings=32, word_embed_proj_dim=WIDTH)
    return text(OPTForCausalLM(c), logits, use_cache=False)


class Experts(nn.Module):
    """The experts of a mixture one by one, since the operators that transformers 5 groups them with have no ONNX form.

    Sparse: each expert takes the rows that chose it, as transformers 4 was exported; dense: all rows, weighted by 0 when
    they did not, the form without sizes that depend on data."""

    def __init__(self, count, hidden_width, sparse):
        super().__init__()
        self.sparse = sparse
        self.gate = nn.ModuleList(nn.Linear(WIDTH, hidden_width, bias=False) for _ in range(count))
        self.up = nn.ModuleList(nn.Linear(WIDTH, hidden_width, bias=False) for _ in range(count))
        self.down = nn.ModuleList(nn.Linear(hidden_width, WIDTH, bias=False) for _ in range(count))

    def forward(self, x, chosen, weights):
        y = torch.zeros_like(x)
        for i, (gate, up, down) in enumerate(zip(self.gate, self.up, self.down)):
            if self.sparse:
                row, place = torch.where(chosen == i)
                part = x[row]
                y = y.index_add(0, row, down(nn.functional.silu(gate(part)) * up(part)) * weights[row, place, None])
            else:
                weight = (weights * (chosen == i).to(weights.dtype)).sum(-1, keepdim=True)
                y = y + down(nn.functional.silu(gate(x)) * up(x)) * weight
        return y


def with_experts(network, hidden_width, sparse):
    for layer in network.module.module.model.layers:
        layer.mlp.experts = Experts(4, hidden_width, sparse)
    return network


@model
def mixtral(attn):
    made = decoder("MixtralConfig", "MixtralForCausalLM", attn, num_local_experts=4, num_experts_per_tok=2)
    return with_experts(made, HIDDEN, sparse=attn == "eager")


@model
def qwen2_moe(attn):
    made = decoder("Qwen2MoeConfig", "Qwen2MoeForCausalLM", attn, moe_intermediate_size=24, shared_expert_intermediate_size=HIDDEN,
                   num_experts=4, num_experts_per_tok=2)
    return with_experts(made, 24, sparse=False)


class WithCache(nn.Module):
    """A decoder step: tokens and the keys and values of earlier positions in, logits and all keys and values out."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, input_ids, attention_mask, *past):
        from transformers import DynamicCache

        cache = DynamicCache()
        for layer in range(len(past) // 2):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        out = self.module(input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache, use_cache=True)
        present = [part for layer in out.past_key_values.layers for part in (layer.keys, layer.values)]
        return (out.logits, *present)


def cached(network, kv, width, past=5):
    module = network.module.module
    inputs = {"input_ids": ids(2), "attention_mask": torch.ones(BATCH, past + 2, dtype=torch.int64)}
    free = {"input_ids": {0: "batch", 1: "tokens"}, "attention_mask": {0: "batch", 1: "all"}, "y": {0: "batch", 1: "tokens"}}
    outputs = ["y"]
    for layer in range(LAYERS):
        for part in ("key", "value"):
            inputs[f"past.{layer}.{part}"] = torch.randn(BATCH, kv, past, width)
            free[f"past.{layer}.{part}"] = {0: "batch", 2: "past"}
            free[f"present.{layer}.{part}"] = {0: "batch", 2: "all"}
            outputs.append(f"present.{layer}.{part}")
    return Network(WithCache(module), inputs, free, outputs)


@model
def llama_cached(attn):
    return cached(llama(attn), KV, 4)


@model
def gpt2_cached(attn):
    return cached(gpt2(attn), HEADS, 4)


@model
def qwen3_cached(attn):
    return cached(qwen3(attn), KV, 8)


# ---- encoder and decoder ----


class FromEncoder(nn.Module):
    """Decoder tokens and the encoder's result in, hidden states out."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, input_ids, encoder_hidden_states):
        return self.module(input_ids=input_ids, encoder_hidden_states=encoder_hidden_states, use_cache=False).last_hidden_state


def from_encoder(module):
    inputs = {"input_ids": ids(), "encoder_hidden_states": torch.randn(BATCH, 9, WIDTH)}
    free = {"input_ids": {0: "batch", 1: "tokens"}, "encoder_hidden_states": {0: "batch", 1: "positions"},
            "y": {0: "batch", 1: "tokens"}}
    return Network(FromEncoder(module), inputs, free, ["y"])


@model
def t5_decoder(attn):
    from transformers import T5Model

    c = config("T5Config", attn, vocab_size=VOCAB, d_model=WIDTH, d_kv=4, d_ff=HIDDEN, num_layers=LAYERS, num_heads=HEADS,
               relative_attention_num_buckets=8)
    return from_encoder(T5Model(c).decoder)


def whisper(attn):
    from transformers import WhisperModel

    c = config("WhisperConfig", attn, vocab_size=VOCAB, d_model=WIDTH, encoder_layers=LAYERS, decoder_layers=LAYERS,
               encoder_attention_heads=HEADS, decoder_attention_heads=HEADS, encoder_ffn_dim=HIDDEN, decoder_ffn_dim=HIDDEN,
               num_mel_bins=8, max_source_positions=12, max_target_positions=16, pad_token_id=0, bos_token_id=1,
               eos_token_id=2, decoder_start_token_id=1)
    return WhisperModel(c)


@model
def whisper_encoder(attn):
    inputs = {"input_features": torch.randn(BATCH, 8, 24)}
    return Network(Call(whisper(attn).encoder, list(inputs), hidden), inputs,
                   {"input_features": {0: "batch"}, "y": {0: "batch"}}, ["y"])


@model
def whisper_decoder(attn):
    return from_encoder(whisper(attn).decoder)


@model
def bart(attn):
    from transformers import BartModel

    c = config("BartConfig", attn, vocab_size=VOCAB, d_model=WIDTH, encoder_layers=LAYERS, decoder_layers=LAYERS,
               encoder_attention_heads=HEADS, decoder_attention_heads=HEADS, encoder_ffn_dim=HIDDEN, decoder_ffn_dim=HIDDEN,
               max_position_embeddings=32, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1)
    inputs = {"input_ids": ids(), "decoder_input_ids": ids()}
    free = {"input_ids": {0: "batch", 1: "tokens"}, "decoder_input_ids": {0: "batch", 1: "out"}, "y": {0: "batch", 1: "out"}}
    return Network(Call(BartModel(c), list(inputs), hidden, use_cache=False), inputs, free, ["y"])


# ---- images and sound ----


@model
def vit(attn):
    from transformers import ViTModel

    c = config("ViTConfig", attn, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=HIDDEN,
               image_size=32, patch_size=8)
    return image(ViTModel(c), hidden)


@model
def deit_timm(attn):
    import timm

    m = timm.models.vision_transformer.VisionTransformer(img_size=32, patch_size=8, embed_dim=WIDTH, depth=LAYERS, num_heads=HEADS,
                                                         mlp_ratio=HIDDEN / WIDTH, num_classes=5)
    for block in m.blocks:
        block.attn.fused_attn = attn == "sdpa"
    return image_plain(m)


def image_plain(module, size=32):
    inputs = {"pixel_values": torch.randn(BATCH, 3, size, size)}
    return Network(module, inputs, {"pixel_values": {0: "batch"}, "y": {0: "batch"}}, ["y"])


@model
def beit(attn):
    from transformers import BeitModel

    c = config("BeitConfig", attn, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=HIDDEN,
               image_size=32, patch_size=8, use_relative_position_bias=True)
    return image(BeitModel(c), hidden)


@model
def dinov2(attn):
    from transformers import Dinov2Model

    c = config("Dinov2Config", attn, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS, mlp_ratio=2,
               image_size=32, patch_size=8, layerscale_value=0.5)
    return image(Dinov2Model(c), hidden)


@model
def dinov2_giant(attn):
    from transformers import Dinov2Model

    c = config("Dinov2Config", attn, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS, mlp_ratio=2,
               image_size=32, patch_size=8, use_swiglu_ffn=True)
    return image(Dinov2Model(c), hidden)


@model
def swin(attn):
    from transformers import SwinModel

    c = config("SwinConfig", attn, image_size=32, patch_size=2, embed_dim=8, depths=[2, LAYERS], num_heads=[2, 4], window_size=4,
               mlp_ratio=2.0)
    return image(SwinModel(c), hidden)


@model
def swin_timm(attn):
    import timm

    return image_plain(timm.models.swin_transformer.SwinTransformer(img_size=32, patch_size=2, embed_dim=8, depths=(2, LAYERS),
                                                                   num_heads=(2, 4), window_size=4, mlp_ratio=2.0, num_classes=5))


def clip(attn):
    from transformers import CLIPConfig, CLIPModel

    sizes = dict(hidden_size=WIDTH, intermediate_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=HEADS)
    c = CLIPConfig(text_config=dict(sizes, vocab_size=VOCAB, max_position_embeddings=16, eos_token_id=2, bos_token_id=1, pad_token_id=0),
                   vision_config=dict(sizes, image_size=32, patch_size=8), projection_dim=8)
    for part in (c, c.text_config, c.vision_config):
        part._attn_implementation = attn
    return CLIPModel(c)


@model
def clip_text(attn):
    return text(clip(attn).text_model)


@model
def clip_vision(attn):
    return image(clip(attn).vision_model, hidden)


@model
def segformer(attn):
    from transformers import SegformerModel

    c = config("SegformerConfig", "eager", num_encoder_blocks=2, depths=[2, LAYERS], sr_ratios=[2, 1], hidden_sizes=[8, 16],
               patch_sizes=[7, 3], strides=[4, 2], num_attention_heads=[2, 4], mlp_ratios=[2, 2], decoder_hidden_size=16)
    return image(SegformerModel(c), hidden)


@model
def wav2vec2(attn):
    from transformers import Wav2Vec2Model

    c = config("Wav2Vec2Config", attn, vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
               intermediate_size=HIDDEN, conv_dim=(8, 8), conv_stride=(4, 2), conv_kernel=(8, 4), num_conv_pos_embeddings=4,
               num_conv_pos_embedding_groups=2, num_feat_extract_layers=2)
    inputs = {"input_values": torch.randn(BATCH, 400)}
    return Network(Call(Wav2Vec2Model(c), list(inputs), hidden), inputs,
                   {"input_values": {0: "batch", 1: "samples"}, "y": {0: "batch", 1: "frames"}}, ["y"])


class DiTBlock(nn.Module):
    """Peebles and Xie, Scalable Diffusion Models with Transformers, 2023: adaLN-Zero."""

    def __init__(self):
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH, elementwise_affine=False, eps=1e-6)
        self.norm2 = nn.LayerNorm(WIDTH, elementwise_affine=False, eps=1e-6)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.GELU(approximate="tanh"), nn.Linear(HIDDEN, WIDTH))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, 6 * WIDTH))
        self.sdpa = True

    def attend(self, x):
        q, k, v = self.qkv(x).reshape(x.shape[0], -1, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4).unbind(0)
        if self.sdpa:
            y = nn.functional.scaled_dot_product_attention(q, k, v)
        else:
            y = (q * (WIDTH // HEADS) ** -0.5 @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(x.shape))

    def forward(self, x, c):
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(c).chunk(6, dim=1)
        x = x + gate1.unsqueeze(1) * self.attend(self.norm1(x) * (1 + scale1.unsqueeze(1)) + shift1.unsqueeze(1))
        return x + gate2.unsqueeze(1) * self.mlp(self.norm2(x) * (1 + scale2.unsqueeze(1)) + shift2.unsqueeze(1))


class DiT(nn.Module):
    def __init__(self, attn):
        super().__init__()
        self.time = nn.Sequential(nn.Linear(8, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.patch = nn.Linear(12, WIDTH)
        self.blocks = nn.ModuleList(DiTBlock() for _ in range(LAYERS))
        for block in self.blocks:
            block.sdpa = attn == "sdpa"
        self.norm = nn.LayerNorm(WIDTH, elementwise_affine=False, eps=1e-6)
        self.last = nn.Linear(WIDTH, 12)

    def forward(self, x, t):
        c, x = self.time(t), self.patch(x)
        for block in self.blocks:
            x = block(x, c)
        return self.last(self.norm(x))


@model
def dit(attn):
    inputs = {"x": torch.randn(BATCH, 9, 12), "t": torch.randn(BATCH, 8)}
    return Network(DiT(attn), inputs, {"x": {0: "batch", 1: "patches"}, "t": {0: "batch"}, "y": {0: "batch", 1: "patches"}}, ["y"])


@model
def torch_encoder(attn):
    """nn.TransformerEncoder with norms first: nn.MultiheadAttention's spelling."""
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, activation="gelu", batch_first=attn == "sdpa", norm_first=True)
    encoder = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
    inputs = {"x": torch.randn(BATCH, 7, WIDTH)}
    return Network(encoder.train(False), inputs, {"x": {0: "batch", 1: "tokens"}, "y": {0: "batch", 1: "tokens"}}, ["y"])


@model
def torch_decoder(attn):
    """nn.TransformerDecoder: cross attention, norms last."""
    layer = nn.TransformerDecoderLayer(WIDTH, HEADS, HIDDEN, batch_first=True)

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.TransformerDecoder(layer, LAYERS)

        def forward(self, x, memory):
            return self.inner(x, memory)

    inputs = {"x": torch.randn(BATCH, 7, WIDTH), "memory": torch.randn(BATCH, 5, WIDTH)}
    return Network(Decoder(), inputs, {"x": {0: "batch", 1: "tokens"}, "memory": {0: "batch", 1: "sources"},
                                       "y": {0: "batch", 1: "tokens"}}, ["y"])


@model
def convnext(attn):
    import timm

    return image_plain(timm.models.convnext.ConvNeXt(depths=(1, 2, LAYERS, 1), dims=(8, 8, 16, 16), num_classes=5))


@model
def resnet(attn):
    import timm

    return image_plain(timm.create_model("resnet10t", num_classes=5), 64)


@model
def mobilenet(attn):
    import timm

    return image_plain(timm.create_model("mobilenetv3_small_050", num_classes=5), 64)


@model
def mixer(attn):
    import timm

    return image_plain(timm.models.mlp_mixer.MlpMixer(img_size=32, patch_size=8, embed_dim=WIDTH, num_blocks=LAYERS, num_classes=5))


# ---- writing them ----

SCRIPT = {"ts11": 11, "ts13": 13, "ts14": 14, "ts17": 17, "ts20": 20}
DYNAMO = {"dy18": 18, "st20": 20, "dy21": 21, "dy23": 23}


def export_script(network, path, opset):
    free = {name: axes for name, axes in network.free.items() if axes}
    torch.onnx.export(network.module, tuple(network.inputs.values()), str(path), dynamo=False, opset_version=opset,
                      input_names=list(network.inputs), output_names=network.outputs, dynamic_axes=free)


def export_dynamo(network, path, opset, free):
    shapes = None
    if free:
        shapes = tuple({axis: torch.export.Dim.DYNAMIC for axis in network.free.get(name, {})} for name in network.inputs)
        if isinstance(network.module, (Call, WithCache)):
            fixed = 2 if isinstance(network.module, WithCache) else 0
            shapes = (*shapes[:fixed], shapes[fixed:])
    program = torch.onnx.export(network.module, tuple(network.inputs.values()), dynamo=True, opset_version=opset,
                                input_names=list(network.inputs), output_names=network.outputs, dynamic_shapes=shapes,
                                external_data=False, verbose=False)
    program.save(str(path), external_data=False)


def optimise(source, path, level="extended"):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    levels = {"extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED, "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC}
    options.graph_optimization_level = levels[level]
    options.optimized_model_filepath = str(path)
    ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


def fuse(source, path, kind):
    from onnxruntime.transformers import optimizer

    made = optimizer.optimize_model(str(source), model_type=kind or "bert", num_heads=HEADS, hidden_size=WIDTH, opt_level=0)
    made.save_model_to_file(str(path))


def halve(source, path):
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(str(source)), keep_io_types=True), str(path))


def clean(path):
    """Drops what names the machine, the Python sources or the moment."""
    loaded = onnx.load(str(path))
    for holder in [loaded.graph, *loaded.functions]:
        for node in holder.node:
            node.doc_string = ""
            del node.metadata_props[:]
    for value in [*loaded.graph.input, *loaded.graph.output, *loaded.graph.value_info]:
        del value.metadata_props[:]
    for tensor in loaded.graph.initializer:
        del tensor.metadata_props[:]
    del loaded.graph.metadata_props[:]
    loaded.graph.doc_string = ""
    onnx.save(loaded, str(path))


def randomise(module):
    """Norms, biases and running statistics away from 0 and 1: otherwise exporters and passes drop them."""
    torch.manual_seed(7)
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if not tensor.is_floating_point() or tensor.numel() < 2 or "inv_freq" in name or "rotary" in name:
                continue
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif tensor.dim() == 1 and name.endswith("weight"):
                tensor.uniform_(0.7, 1.3)
            elif tensor.dim() == 1:
                tensor.normal_(0, 0.1)
            elif dict(module.named_parameters()).get(name) is not None:
                tensor.normal_(0, 0.8 / tensor[0].numel() ** 0.5)


def variants(name, out, wanted):
    written = {}

    def attempt(variant, action):
        if wanted and variant not in wanted:
            return
        path = out / f"{name}.{variant}.onnx"
        try:
            action(path)
            clean(path)
            written[variant] = path
            print(f"{name}.{variant} {path.stat().st_size}", flush=True)
        except Exception as error:  # an exporter that cannot is no failure of ours
            path.unlink(missing_ok=True)
            print(f"{name}.{variant} FAILED {type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else ''}", flush=True)
            if "-v" in sys.argv:
                traceback.print_exc()

    def network(attn):
        torch.manual_seed(3)
        made = MODELS[name](attn)
        randomise(made.module)
        return made

    for variant, opset in SCRIPT.items():
        attn = "sdpa" if variant in ("ts14", "ts20") else "eager"
        attempt(variant, lambda path: export_script(network(attn), path, opset))
    for variant, opset in DYNAMO.items():
        attn = "eager" if variant == "dy18" else "sdpa"
        attempt(variant, lambda path: export_dynamo(network(attn), path, opset, not variant.startswith("st")))
    plain = [out / f"{name}.{v}.onnx" for v in ("ts17", "ts14", "dy18", "st20") if (out / f"{name}.{v}.onnx").exists()]
    if plain:
        kind = network("eager").kind
        dynamo = [out / f"{name}.{v}.onnx" for v in ("dy21", "st20", "dy18") if (out / f"{name}.{v}.onnx").exists()]
        attempt("ort", lambda path: optimise(plain[0], path))
        attempt("half", lambda path: halve(plain[0], path))
        attempt("fused", lambda path: fuse(plain[0], path, kind))
        if dynamo:
            attempt("dyort", lambda path: optimise(dynamo[0], path))


def shorten(loaded):
    """Value names become v1, v2...; nodes lose theirs."""
    short = {"": ""}

    def rename(names):
        for i, name in enumerate(names):
            names[i] = short.setdefault(name, f"v{len(short)}")

    def walk(graph):
        for tensor in graph.initializer:
            tensor.name = short.setdefault(tensor.name, f"v{len(short)}")
        for value in [*graph.input, *graph.output, *graph.value_info]:
            value.name = short.setdefault(value.name, f"v{len(short)}")
        for node in graph.node:
            node.name = ""
            rename(node.input), rename(node.output)
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    walk(attribute.g)

    walk(loaded.graph)
    return loaded


def blank(loaded):
    """Random weights become zeros; tables of few different numbers (masks, positions, scales) stay."""
    def zero(tensor):
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype.kind != "f" or array.size < 12 or len(np.unique(array)) < 4:
            return
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros_like(array), tensor.name))

    def walk(graph):
        for tensor in graph.initializer:
            zero(tensor)
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.TENSOR:
                    zero(attribute.t)
                elif attribute.type == onnx.AttributeProto.GRAPH:
                    walk(attribute.g)

    walk(loaded.graph)
    return loaded


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--variants", default="")
    parser.add_argument("--pack", type=pathlib.Path)
    parser.add_argument("--layers", type=int, default=2, help="of every network (of a later stage, where there are several)")
    parser.add_argument("-v", action="store_true")
    options = parser.parse_args()
    global LAYERS
    LAYERS = options.layers
    if options.pack:
        wanted = set(filter(None, options.variants.split(",")))
        files = sorted(f for f in options.out.glob("*.onnx") if not wanted or f.stem.split(".")[1] in wanted)
        packed = {}
        for file in files:
            small = shorten(blank(onnx.load(str(file))))
            packed[file.stem] = np.frombuffer(small.SerializeToString(deterministic=True), np.uint8)
        np.savez_compressed(options.pack, **packed)
        print(f"{len(packed)} models, {options.pack.stat().st_size} bytes")
        return
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    wanted = set(filter(None, options.variants.split(",")))
    for name in MODELS:
        if not options.only or name in options.only.split(","):
            variants(name, options.out, wanted)


if __name__ == "__main__":
    main()
