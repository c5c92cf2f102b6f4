"""Only the fast layers, in a training loop of your own."""

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

import doratune

# Any model from `from_pretrained`; a random one keeps this example offline.
base = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
)
model = get_peft_model(base, LoraConfig(use_dora=True, r=8, target_modules="all-linear"))
print(doratune.enable_fast_dora(model))  # before the optimizer is made

optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-3)
tokens = torch.randint(0, 512, (4, 32), generator=torch.Generator().manual_seed(0))
for step in range(3):
    loss = model(input_ids=tokens, labels=tokens).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    print(f"step {step}: loss {loss.item():.4f}")

doratune.disable_fast_dora(model)  # PEFT's own forward is back; weights are untouched
