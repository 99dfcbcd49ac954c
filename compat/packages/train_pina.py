# /// script
# dependencies = ["pina-mathlab==0.3.2.post2610"]
# ///
"""A physics-informed network of PINA that solves Poisson's equation."""

import warnings

import torch
from common import Recount
from pina import Trainer
from pina.model import FeedForward
from pina.problem.zoo import Poisson2DSquareProblem
from pina.solver import PINN

warnings.simplefilter("ignore")  # it prints one for each of its own old names
torch.manual_seed(0)
problem = Poisson2DSquareProblem()
problem.discretise_domain(50, "random")
model = FeedForward(len(problem.input_variables), len(problem.output_variables), layers=[32, 32])
recount = Recount("physics-informed network for Poisson's equation, trained twice")
solver = PINN(problem, model)
for _ in range(2):
    Trainer(solver, max_epochs=10, accelerator="cpu", logger=False, callbacks=recount.callbacks).train()
recount.check_trained(solver)
recount.report()
