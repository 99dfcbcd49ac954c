"""Engines that make many trainings, on one machine or many: `finished` over any `concurrent.futures.Executor`.

Nothing here imports PyTorch, so that a cluster's workers, which only start trainings and wait for them, stay small.
"""
