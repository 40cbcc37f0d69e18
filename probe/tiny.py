"""`builtin:tiny`: a small untrained Llama with a byte-level tokenizer, built in code from a seed. Nothing is downloaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SEED = 20250601


def tiny_tokenizer() -> PreTrainedTokenizerBase:
    """One token a UTF-8 byte (256), after `<s>`; `</s>` ends nothing by itself. Any text in any script can be read."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "</s>", "<pad>"]
    vocabulary = {token: index for index, token in enumerate(special + sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    roles = dict(zip(("bos_token", "eos_token", "pad_token"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=4096, **roles)


def tiny_model(hidden: int = 64, blocks: int = 4, heads: int = 4) -> PreTrainedModel:
    """A random Llama of 4 blocks and width 64 by default, the same weights at every call, whatever random state is around."""
    import torch
    from transformers import LlamaConfig, LlamaModel

    config = LlamaConfig(
        vocab_size=259,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=4096,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return LlamaModel(config).eval()


def tiny_causal_model() -> PreTrainedModel:
    """`tiny_model` below an LM head that shares the weights of its embeddings."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    base = tiny_model()
    config = LlamaConfig(**{**base.config.to_dict(), "tie_word_embeddings": True})
    with torch.random.fork_rng(devices=[]):
        headed = LlamaForCausalLM(config).eval()
    headed.model.load_state_dict(base.state_dict())
    return headed
