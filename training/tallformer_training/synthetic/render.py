"""Render a script to frames in NumPy: background, specks, sprites from back to front, light, grain."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tallformer_training.synthetic.actions import FloatArray, Pose
from tallformer_training.synthetic.looks import TILE_HEIGHTS, TILE_PX, draw_background, draw_look
from tallformer_training.synthetic.script import Scene, Script, Shot, Speck, VideoSpec, light_at, shake_at, zoom_at

Frame = NDArray[np.uint8]
_TextureImage = NDArray[np.float32]

_GRAIN_MARGIN_PX = 32
_BLOCK_FRAMES = 1024


def render_frames(script: Script, *, start_frame: int = 0, end_frame: int | None = None) -> Iterator[Frame]:
    """Render frames `start_frame` to `end_frame` (exclusive; None: to the end), one after another.

    A frame does not depend on the range that is rendered. Memory does not grow with the length.

    Yields:
        RGB, shape (height, width, 3).
    """
    end_frame = script.spec.frames if end_frame is None else end_frame
    for shot in script.shots:
        first, last = max(shot.start_frame, start_frame), min(shot.end_frame, end_frame)
        for block in range(first, last, _BLOCK_FRAMES):
            yield from _render_block(shot, script.spec, np.arange(block, min(block + _BLOCK_FRAMES, last)))


def _render_block(shot: Shot, spec: VideoSpec, frames: NDArray[np.int64]) -> Iterator[Frame]:
    t_s = (frames - shot.start_frame) / spec.fps
    shake = shake_at(shot.scene, t_s)  # (N, 2)
    zoom = zoom_at(shot.scene, t_s)
    light = light_at(shot.scene, t_s).astype(np.float32)  # (N, 3)
    poses = [sprite.poses(frames, spec.fps) for sprite in shot.sprites]
    tile = draw_background(shot.scene.background_seed)
    looks = [draw_look(sprite.look_seed) for sprite in shot.sprites]
    grain = _draw_grain(shot.scene, spec)
    for row, frame in enumerate(frames):
        picture = _background(tile, spec, zoom[row], np.array(shot.scene.pan) * t_s[row] - shake[row])
        for speck in shot.scene.specks:
            _draw_speck(picture, speck, t_s[row], shake[row], spec)
        for textures, own in zip(looks, poses, strict=True):
            pose = Pose(*own[row])
            _draw_sprite(picture, textures, pose._replace(x=pose.x + shake[row, 0], y=pose.y + shake[row, 1]))
        picture *= light[row]
        if grain is not None:
            picture += _grain_of(grain, shot.scene, int(frame), spec)
        np.clip(picture, 0, 255, out=picture)
        yield (picture + np.float32(0.5)).astype(np.uint8)


def _background(tile: _TextureImage, spec: VideoSpec, zoom: float, offset: FloatArray) -> _TextureImage:
    """The visible part of the repeated tile, magnified about the centre of the picture, bilinear."""
    step = TILE_PX / TILE_HEIGHTS / spec.height_px / zoom  # tile pixels per pixel
    centre = offset * TILE_PX / TILE_HEIGHTS
    columns = centre[0] + (np.arange(spec.width_px) - spec.width_px / 2) * step
    rows = centre[1] + (np.arange(spec.height_px) - spec.height_px / 2) * step
    left, top = np.floor(columns).astype(np.int64), np.floor(rows).astype(np.int64)
    right_part = (columns - left).astype(np.float32)[None, :, None]
    low_part = (rows - top).astype(np.float32)[:, None, None]
    upper, lower = tile.take(top % TILE_PX, axis=0), tile.take((top + 1) % TILE_PX, axis=0)
    lines = upper + low_part * (lower - upper)  # (H, tile, 3)
    near, far = lines.take(left % TILE_PX, axis=1), lines.take((left + 1) % TILE_PX, axis=1)
    far -= near
    far *= right_part
    near += far
    return np.asarray(near)


def _draw_sprite(picture: _TextureImage, textures: tuple[_TextureImage, ...], pose: Pose) -> None:
    """Draw a look over `picture` (in place) by sampling the texture at each pixel around it."""
    height_px, width_px = picture.shape[:2]
    radius_px = max(pose.size * height_px / 2, 1.0)
    x_px, y_px = pose.x * height_px, pose.y * height_px
    x0, x1 = max(math.floor(x_px - radius_px), 0), min(math.ceil(x_px + radius_px), width_px)
    y0, y1 = max(math.floor(y_px - radius_px), 0), min(math.ceil(y_px + radius_px), height_px)
    if x0 >= x1 or y0 >= y1 or pose.opacity <= 0:
        return
    texture = next((small for small in reversed(textures) if len(small) >= 2 * radius_px), textures[0])
    side = len(texture)
    dx = (np.arange(x0, x1, dtype=np.float32) + np.float32(0.5 - x_px))[None, :]
    dy = (np.arange(y0, y1, dtype=np.float32) + np.float32(0.5 - y_px))[:, None]
    scale = side / (2 * radius_px)
    cos, sin = np.float32(math.cos(pose.angle_rad) * scale), np.float32(math.sin(pose.angle_rad) * scale)
    middle = np.float32(side / 2 - 0.5)
    u = np.clip(cos * dx + sin * dy + middle, 0, side - 1.001)  # (H, W) texture columns
    v = np.clip(cos * dy - sin * dx + middle, 0, side - 1.001)
    rgba = _sample(texture, u, v)
    if pose.opacity < 1:
        rgba *= np.float32(pose.opacity)
    part = picture[y0:y1, x0:x1]
    part *= 1 - rgba[:, :, 3:]
    part += rgba[:, :, :3]


def _sample(texture: _TextureImage, u: _TextureImage, v: _TextureImage) -> _TextureImage:
    """Bilinear values of an (L, L, 4) texture at columns `u` and rows `v` in [0, L - 1)."""
    side = len(texture)
    left, top = u.astype(np.int32), v.astype(np.int32)
    right_part, low_part = (u - left)[:, :, None], (v - top)[:, :, None]
    flat = texture.reshape(-1, 4)
    corner = top * side + left
    upper_left, upper_right = flat.take(corner, axis=0), flat.take(corner + 1, axis=0)
    lower_left, lower_right = flat.take(corner + side, axis=0), flat.take(corner + side + 1, axis=0)
    upper = upper_left + right_part * (upper_right - upper_left)
    lower = lower_left + right_part * (lower_right - lower_left)
    return np.asarray(upper + low_part * (lower - upper))


def _draw_speck(picture: _TextureImage, speck: Speck, t_s: float, shake: FloatArray, spec: VideoSpec) -> None:
    """Draw a disc on whole pixels; it leaves on one side and returns on the other."""
    wide, high = spec.aspect + speck.size, 1 + speck.size
    x_px = ((speck.x + speck.x_per_s * t_s + shake[0]) % wide - speck.size / 2) * spec.height_px
    y_px = ((speck.y + speck.y_per_s * t_s + shake[1]) % high - speck.size / 2) * spec.height_px
    radius_px = speck.size * spec.height_px / 2
    x0, y0 = max(math.floor(x_px - radius_px), 0), max(math.floor(y_px - radius_px), 0)
    part = picture[y0 : max(math.ceil(y_px + radius_px), 0), x0 : max(math.ceil(x_px + radius_px), 0)]
    rows, columns = np.ogrid[: part.shape[0], : part.shape[1]]
    part[np.hypot(columns + x0 + 0.5 - x_px, rows + y0 + 0.5 - y_px) < radius_px] = speck.rgb


def _draw_grain(scene: Scene, spec: VideoSpec) -> _TextureImage | None:
    """A field of noise from which every frame uses another part, shape (H + 32, W + 32, 1)."""
    if scene.grain == 0:
        return None
    shape = (spec.height_px + _GRAIN_MARGIN_PX, spec.width_px + _GRAIN_MARGIN_PX, 1)
    return np.random.default_rng(scene.noise_seed).standard_normal(shape, np.float32) * np.float32(scene.grain)


def _grain_of(grain: _TextureImage, scene: Scene, frame: int, spec: VideoSpec) -> _TextureImage:
    mixed = (frame * 2654435761 + scene.noise_seed) % 2**32 >> 8  # multiplicative hash
    x, y = mixed % _GRAIN_MARGIN_PX, mixed // _GRAIN_MARGIN_PX % _GRAIN_MARGIN_PX
    return grain[y : y + spec.height_px, x : x + spec.width_px]
