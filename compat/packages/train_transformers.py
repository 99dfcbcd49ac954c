# /// script
# dependencies = ["transformers==5.23.0"]
# ///
"""GPT-2 and BERT of Transformers in a LightningModule; GPT-2's linear layers are a class of that package."""

import lightning.pytorch as pl
import torch
from common import Recount, train_and_resume
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel


class Language(pl.LightningModule):
    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        return self.model(input_ids=batch[0], labels=batch[0]).loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def gpt() -> Language:
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 50, "n_positions": 16}
    return Language(GPT2LMHeadModel(GPT2Config(**sizes, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)))


def bert() -> Language:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    none = {"hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0}
    return Language(BertForMaskedLM(BertConfig(**sizes, **none, vocab_size=50, max_position_embeddings=16)))


loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randint(50, (64, 8))), batch_size=16)
recount = Recount("GPT-2 with its own linear class, and BERT", include="Conv1D")
recount.check_trained(train_and_resume(recount, gpt, loader))
recount = Recount(recount.trained, add_to=recount)
recount.check_trained(train_and_resume(recount, bert, loader))
recount.report()
