"""Remove lens distortion: intrinsics without distortion for distorted pictures, and the undistorted pictures."""

from __future__ import annotations

import numpy as np

# OpenCV puts the middle of the first pixel at 0, Nerfstudio and this package at one half.
HALF_PIXEL = np.array([[0.0, 0.0, 0.5], [0.0, 0.0, 0.5], [0.0, 0.0, 0.0]])


def opencv_distortion(distortion: np.ndarray) -> np.ndarray:
    """Convert Nerfstudio's k1, k2, k3, k4, p1, p2 [6] to OpenCV's k1, k2, p1, p2, k3 [5]. Raises ValueError for k4."""
    if distortion[3] != 0:
        raise ValueError("lens distortion with k4, which OpenCV does not undo")
    return np.asarray(distortion, dtype=np.float64)[[0, 1, 4, 5, 2]]


def straight_matrix(matrix: np.ndarray, distortion: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Intrinsics of an undistorted picture of the same size: the largest rectangle without empty pixels.

    Args:
        matrix: Intrinsics [3, 3] of the distorted picture in pixels.
        distortion: Distortion parameters [5] in OpenCV's order.
        size: (width, height) of the picture in pixels.
    """
    if not np.any(distortion):
        return matrix
    import cv2

    new, _ = cv2.getOptimalNewCameraMatrix(matrix - HALF_PIXEL, distortion, size, 0)
    return new + HALF_PIXEL


def straighten(pixels: np.ndarray, matrix: np.ndarray, distortion: np.ndarray, straight: np.ndarray) -> np.ndarray:
    """The picture [h, w, 3] that a camera with intrinsics `straight` and no distortion would have taken."""
    import cv2

    size = (pixels.shape[1], pixels.shape[0])
    x, y = cv2.initUndistortRectifyMap(
        matrix - HALF_PIXEL, distortion, np.eye(3), straight - HALF_PIXEL, size, cv2.CV_32FC1
    )
    # The rectangle touches the border of the photograph; without replication, black from outside would bleed in.
    return cv2.remap(np.ascontiguousarray(pixels), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
