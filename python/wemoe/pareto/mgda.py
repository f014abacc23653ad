"""MGDA: the step that improves every loss most evenly, whatever anyone prefers; TorchJD solves for it."""

from __future__ import annotations

from torch import Tensor


class MGDA:
    """Weights of the losses by the multiple-gradient descent algorithm (Désidéri 2012; Sener and Koltun 2018).

    Of all convex combinations of the gradients it takes the shortest, min_alpha |sum_j alpha_j g_j|^2 over the simplex,
    which no loss's gradient opposes; it is 0 on the whole front. Where on the front a run ends, nobody chooses. The
    solver is TorchJD's (`pip install torchjd`, MIT), by Frank and Wolfe, without the published bounds of 0.001 and
    0.999 on the weights of two tasks.

    Raises:
        ImportError: TorchJD is not installed.
    """

    def __init__(self) -> None:
        try:
            from torchjd.aggregation import MGDAWeighting
        except ImportError as error:
            raise ImportError("MGDA needs TorchJD, which is not installed: pip install 'wemoe[mgda]'") from error
        self._solve = MGDAWeighting()

    def __call__(self, losses: Tensor, gram: Tensor, ray: Tensor) -> Tensor:
        """Return weights [T] that sum to 1, like `losses` in type and device; losses and ray take no part.

        Args:
            losses: [T].
            gram: [T, T], the inner products of the losses' gradients.
            ray: [T].
        """
        return self._solve(gram.detach().double()).to(losses)
