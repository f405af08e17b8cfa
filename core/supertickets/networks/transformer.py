"""The transformer option of HR-NAS: the shortcut path of a block sees the whole picture through a few tokens.

tokens = BN(project([x ; coordinates]));  memory = encoder(tokens);  out = restore(decoder(memory + queries, memory)).  The
residual of the decoder is the memory, so output i belongs to token i.  HR-NAS, arXiv 2106.06560, section 3. The scale of the BN
after the first conv is the importance of a token; tokens are searched and removed like channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supertickets.networks.arch import Arch
from supertickets.networks.unit_group import BN_TENSORS, UnitGroup

GRID = 8  # feature maps are resized to 8x8
DIM = GRID * GRID  # so a token is a vector of 64 numbers, one per position


class TokenMixer(nn.Module):
    """(B, C_in, H, W) -> (B, C_out, *size): global context for a block's shortcut."""

    coordinates: Tensor

    def __init__(self, in_channels: int, out_channels: int, *, tokens: int, arch: Arch) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.build(arch, tokens)
        common: dict[str, Any] = {"nhead": 1, "dim_feedforward": DIM, "dropout": 0.1, "batch_first": True}
        self.encoder = nn.TransformerEncoderLayer(DIM, **common)  # post-norm
        self.decoder = nn.TransformerDecoderLayer(DIM, **common)
        ys, xs = torch.meshgrid(torch.linspace(0, 1, GRID), torch.linspace(0, 1, GRID), indexing="ij")
        self.register_buffer("coordinates", torch.stack([xs, ys])[None], persistent=False)  # (1, 2, 8, 8)

    def build(self, arch: Arch, tokens: int) -> None:
        """(Re)create the modules that depend on the number of tokens."""
        self.tokens = tokens
        self.tokenize = nn.Conv2d(self.in_channels + 2, tokens, 1, bias=False)
        self.token_bn = nn.BatchNorm2d(tokens, eps=arch.bn_eps, momentum=arch.bn_momentum)
        self.queries = nn.Parameter(torch.randn(tokens, DIM) * DIM**-0.5)
        self.restore = nn.Conv2d(tokens, self.out_channels, 1, bias=False)
        self.restore_bn = nn.BatchNorm2d(self.out_channels, eps=arch.bn_eps, momentum=arch.bn_momentum)

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        batch = x.shape[0]
        grid = F.interpolate(x, (GRID, GRID), mode="bilinear", align_corners=False)
        coordinates = self.coordinates.to(grid.dtype).expand(batch, -1, -1, -1)
        tokens = self.token_bn(self.tokenize(torch.cat([grid, coordinates], dim=1)))  # (B, n, 8, 8)
        ignored = self._ignore_dead().expand(self.tokens, -1)
        memory = self.encoder(tokens.flatten(2), src_mask=ignored)  # (B, n, 64)
        mixed = self.decoder(memory + self.queries, memory, tgt_mask=ignored, memory_mask=ignored)  # (B, n, 64)
        mixed = mixed * self._alive()[:, None]
        restored = self.restore_bn(self.restore(mixed.unflatten(2, (GRID, GRID))))  # (B, C_out, 8, 8)
        return F.interpolate(restored, size, mode="bilinear", align_corners=False)

    def _alive(self) -> Tensor:
        """(n,) 0 for tokens whose BN scale and shift are both 0 (if BN is folded: conv and bias), otherwise 1."""
        if isinstance(self.token_bn, nn.BatchNorm2d):
            scale, shift = self.token_bn.weight, self.token_bn.bias
        else:
            scale, shift = self.tokenize.weight.flatten(1).abs().sum(1), self.tokenize.get_parameter("bias")
        return ((scale != 0) | (shift != 0)).to(self.queries.dtype)

    def _ignore_dead(self) -> Tensor:
        """(n,) added to the logits of attention, so that dead tokens are ignored and removing them changes nothing."""
        return (self._alive() - 1) * 1e4

    def unit_groups(self) -> list[UnitGroup]:
        """The tokens, gated by the scale of the BN after the first conv; the whole module is removed with the last token."""
        unit_of = torch.arange(self.tokens)
        cuts = {("tokenize.weight", 0): unit_of, ("queries", 0): unit_of, ("restore.weight", 1): unit_of}
        cuts |= {(f"token_bn.{tensor}", 0): unit_of for tensor in BN_TENSORS}
        gates = ("token_bn.weight",)
        return [UnitGroup("", "token", self.tokens, gates, cuts, ("",), divisible=False, module=".", pair_macs=2 * DIM)]
