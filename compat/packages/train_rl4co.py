# /// script
# dependencies = ["rl4co==0.7.0"]
# ///
"""An attention model of RL4CO for the travelling salesman, by reinforcement learning: data are made in each epoch."""

import torch
from common import Recount
from rl4co.envs import TSPEnv
from rl4co.models import REINFORCE, AttentionModelPolicy
from rl4co.utils import RL4COTrainer

torch.manual_seed(0)
env = TSPEnv(generator_params={"num_loc": 8})
policy = AttentionModelPolicy(env_name=env.name, embed_dim=32, num_encoder_layers=1, num_heads=4, feedforward_hidden=64)
sizes = {"batch_size": 32, "train_data_size": 128, "val_data_size": 32, "test_data_size": 32}
model = REINFORCE(env, policy, baseline="rollout", **sizes)
recount = Recount("attention model for the travelling salesman, with a copy of the network as its baseline")
trainer = RL4COTrainer(
    max_epochs=3, accelerator="cpu", precision="32-true", logger=None, callbacks=recount.callbacks, devices=1
)
trainer.fit(model)
recount.check_trained(model)
recount.report()
