"""The convolutional autoencoder of the S-RL Toolbox in PyTorch, run by the peer's own Python.

Prints "ready", then answers each line on standard input by the pictures per second of some gradient steps. Run by
benchmarks/representations.py.
"""

import argparse
import json
import sys
import time

import torch
from torch import nn


class AutoEncoder(nn.Module):
    """Encoder and decoder of srl-zoo's CNNAutoEncoder at 224 pixels."""

    def __init__(self, state_dim: int) -> None:
        super().__init__()
        layers = []
        for inputs, side, stride, padding, pool_padding in ((3, 7, 2, 3, 1), (64, 3, 1, 1, 0), (64, 3, 2, 1, 0)):
            layers += [nn.Conv2d(inputs, 64, side, stride, padding, bias=False), nn.BatchNorm2d(64), nn.ReLU(True)]
            layers += [nn.MaxPool2d(3, 2, pool_padding)]
        self.encoder = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 36, state_dim))
        self.grow = nn.Linear(state_dim, 64 * 36)
        layers = []
        for _ in range(4):
            layers += [nn.ConvTranspose2d(64, 64, 3, 2), nn.BatchNorm2d(64), nn.ReLU(True)]
        self.decoder = nn.Sequential(*layers, nn.ConvTranspose2d(64, 3, 4, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map normalised pictures to their reconstructions."""
        return self.decoder(self.grow(self.encoder(x)).view(-1, 64, 6, 6))


def main() -> None:
    """Train when asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--state-dim", type=int)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--layout", choices=("contiguous", "channels_last"))
    args = parser.parse_args()
    torch.manual_seed(0)
    layout = torch.channels_last if args.layout == "channels_last" else torch.contiguous_format
    model = AutoEncoder(args.state_dim).train().to(memory_format=layout)
    adam = torch.optim.Adam(model.parameters(), lr=0.005)
    shape = (2 * args.batch_size, 3, args.image_size, args.image_size)
    pictures = torch.randn(shape).to(memory_format=layout)

    def train() -> float:
        started = time.perf_counter()
        for _ in range(args.steps):
            adam.zero_grad()
            nn.functional.mse_loss(model(pictures), pictures).backward()
            adam.step()
        return len(pictures) * args.steps / (time.perf_counter() - started)

    train()
    print(json.dumps("ready"), flush=True)
    for _ in sys.stdin:
        print(json.dumps(train()), flush=True)


if __name__ == "__main__":
    main()
