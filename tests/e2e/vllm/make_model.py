"""A Llama of two layers with random weights, and a tokenizer in which each word is one token.

usage: make_model.py FOLDER

A text of N words has N tokens for the client and for the server, so that counts can be compared.
"""

import itertools
import sys


def main(folder):
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    syllables = itertools.product("bdklmnprst", "aeiou", "abcdefghijklmnopqrstuvwxyz")
    words = ["▁" + "".join(letters) for letters in itertools.islice(syllables, 1024)]
    tokenizer = Tokenizer(
        models.WordLevel(vocab={word: i for i, word in enumerate(words)}, unk_token=words[0])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    tokenizer.decoder = decoders.Metaspace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=None,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


if __name__ == "__main__":
    main(sys.argv[1])
