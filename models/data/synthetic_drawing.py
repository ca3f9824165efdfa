"""How a synthetic face is painted from its traits: back to front, in exact arithmetic.

All arrays are float32, `(N, size, size)` for what is painted and `(N, 1, 1)` for a trait. Grey is 0 black, 1 white; it
may leave [0, 1] until the photograph is taken. `synthetic` says why only operations that IEEE 754 rounds exactly occur.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]  # float32 throughout; the wider name is what numpy infers for sums with numbers
Traits = dict[str, Floats]

GLASSES_SHARE = 0.12  # of the faces, in [0, 1]


def paint(t: Traits, grain: Floats) -> npt.NDArray[np.uint8]:
    """The faces uint8 `(N, size, size)` that traits and white noise `(N, size, size)`, of deviation 1, say."""
    size = grain.shape[1]
    ticks = (np.arange(size, dtype=np.float32) + 0.5) / np.float32(size) - np.float32(0.5)
    x, y = ticks[None, None, :], ticks[None, :, None]
    head = _head(t, x, y)
    image = _backdrop(t, x, y)
    hair, spread = _hair(t, head, grain)
    back = _inside((1.0 - spread) * 4.0)
    back *= _inside((np.clip(t["hair_length"], -0.45, 1.6) - head.v) * 4.0)
    back *= _inside(t["hair_cover"])
    _lay(image, back, hair)
    _body(t, head, image, back)
    face = _skin(t, head, grain)
    _beard(t, head, grain, face)
    _eyes(t, head, grain, face, size)
    _nose_and_mouth(t, head, face, size)
    _lay(image, head.outline, face)
    _forelock(t, head, image, hair, spread, back)
    return _photograph(t, image, grain, x, y)


def _inside(depth: Floats) -> Floats:
    """A soft edge: 0 where `depth` is under -1, 1 where it is over 1, smooth between."""
    rise = depth * 0.5
    rise += 0.5
    np.clip(rise, 0.0, 1.0, out=rise)
    step = rise * -2.0
    step += 3.0
    step *= rise
    step *= rise
    return step


def _blob(distance_squared: Floats) -> Floats:
    """A soft spot: 1 at the centre, 0 from distance 1 on."""
    near = 1.0 - distance_squared
    np.maximum(near, 0.0, out=near)
    near *= near
    return near


def _lay(image: Floats, mask: Floats, tone: Floats) -> None:
    """Lay `tone` over `image` where `mask`, in [0, 1], says so."""
    change = tone - image
    change *= mask
    image += change


def _blur(image: Floats, weight: Floats) -> Floats:
    """Each pixel's neighbours mixed in with `weight` on either side, along both axes; the border is repeated."""
    for swap in (False, True):
        blurred = image * (1.0 - 2.0 * weight)
        image *= weight
        out, add = (blurred.swapaxes(1, 2), image.swapaxes(1, 2)) if swap else (blurred, image)
        out[:, 1:] += add[:, :-1]
        out[:, :-1] += add[:, 1:]
        out[:, :1] += add[:, :1]
        out[:, -1:] += add[:, -1:]
        image = blurred
    return image


class Head(NamedTuple):
    """The head in the frame. All `(N, size, size)`."""

    u: Floats  # across, 0 on the axis of the outline
    v: Floats  # down, -1 at the crown, 1 at the chin
    side: Floats  # abs(u)
    outline: Floats  # 1 inside, 0 outside, soft between
    bulge: Floats  # towards the viewer, 1 in the middle
    across: Floats  # u in half-widths of the head at that height
    face_u: Floats  # across, 0 on the line of the nose, which pose slides over the surface
    face_v: Floats


def _head(t: Traits, x: Floats, y: Floats) -> Head:
    """Pose and outline: an oval above, below a jaw more or less wide and square."""
    cos, sin = _turn(t["roll"])
    dx, dy = (x - t["shift_x"]) / t["scale"], (y - t["shift_y"]) / t["scale"]
    u, v = cos * dx + sin * dy, cos * dy - sin * dx
    below = np.clip(v, 0.0, 1.0)
    width = t["head_width"] + (t["jaw_width"] - t["head_width"]) * np.minimum(below * 1.6, 1.0)
    across = u / width
    flat = across * across
    form = 1.0 - flat - v * v * (1.0 - t["jaw_square"] * 1.6 * np.minimum(below * 2.0, 1.0) * flat)
    bulge = np.sqrt(np.maximum(form, 0.02))
    outline = _inside(form * 5.0)
    return Head(u, v, np.abs(u), outline, bulge, across, u - t["yaw"] * bulge, v - t["pitch"] * bulge)


def _turn(angle: Floats) -> tuple[Floats, Floats]:
    """Cosine and sine of about `angle`, small and in radians, by exact operations only."""
    half = angle * 0.5
    return (1.0 - half * half) / (1.0 + half * half), 2.0 * half / (1.0 + half * half)


def _window(t: Traits, size: int, centre_v: float, width: float, height: float) -> npt.NDArray[np.intp]:
    """Flat pixel numbers `(N, rows, columns)` of the part of each frame round a point of the face.

    Features are small: painting them only there spares most of the work. `width` and `height` are shares of the frame.
    """
    columns, rows = math.ceil(width * size), math.ceil(height * size)
    cos, sin = _turn(t["roll"])
    u, v = t["yaw"] * 0.95, centre_v + t["pitch"] * 0.95
    centre_x = t["scale"] * (cos * u - sin * v) + t["shift_x"] + 0.5
    centre_y = t["scale"] * (sin * u + cos * v) + t["shift_y"] + 0.5
    left = np.clip(np.rint(centre_x * size - columns / 2), 0, size - columns).astype(np.intp)
    top = np.clip(np.rint(centre_y * size - rows / 2), 0, size - rows).astype(np.intp)
    image = np.arange(len(left))[:, None, None] * (size * size)
    return image + (top + np.arange(rows)[:, None]) * size + left + np.arange(columns)


def _backdrop(t: Traits, x: Floats, y: Floats) -> Floats:
    """What is behind: a slope of light and one soft edge, as of a wall, a door, a window."""
    image = t["backdrop_tone"] + t["backdrop_slope_x"] * x + t["backdrop_slope_y"] * y
    edge = x * 9.0 + (t["backdrop_edge_slant"] * 9.0) * y - t["backdrop_edge_x"] * 9.0
    image += t["backdrop_edge"] * _inside(edge)
    return image


def _hair(t: Traits, head: Head, grain: Floats) -> tuple[Floats, Floats]:
    """The tone of hair everywhere, and where it may be: under 1 inside its outline."""
    wave = head.u * (4.0 + t["hair_curl"])
    wave += t["strand_phase"] + (0.4 * t["hair_curl"]) * head.v
    strands = np.abs(wave - np.rint(wave))
    # Neighbours in a column share most of their grain: strands run downwards.
    strands[:, 1:] += 0.10 * (grain[:, 1:] + grain[:, :-1])
    hair = (0.35 * t["hair_tone"]) * strands
    hair += (0.8 * t["light_x"] * t["hair_tone"]) * head.u
    hair += (-0.25 * t["hair_tone"]) * head.v
    hair += 0.92 * t["hair_tone"]
    spread = head.u / (t["head_width"] + t["hair_volume"])
    spread *= spread
    crown = np.minimum(head.v, 0.0) / (1.0 + t["hair_volume"])
    spread += crown * crown
    return hair, spread


def _body(t: Traits, head: Head, image: Floats, back: Floats) -> None:
    """Neck, shoulders and ears; ears hide under long hair."""
    size = image.shape[1]
    low = slice(int(0.45 * size), size)
    u, v, side, below = head.u[:, low], head.v[:, low], head.side[:, low], image[:, low]
    neck = _inside((t["neck_width"] + 0.25 * np.maximum(v - 0.9, 0.0) - side) * 7.0) * _inside((v - 0.55) * 6.0)
    _lay(below, neck, (0.5 * t["light_x"] * t["skin_tone"]) * u + 0.62 * t["skin_tone"])
    _lay(below, _inside((v - 1.10 - 0.12 * side) * 6.0), t["clothes_tone"] * (0.9 + 0.3 * t["light_x"] * u))
    ear_u = (head.side - t["head_width"] * 0.99) / (t["ear_size"] * 0.75)
    ear_v = (head.v - 0.08) / (t["ear_size"] * 1.5)
    ears = np.minimum(_blob(ear_u * ear_u + ear_v * ear_v) * 3.0, 1.0)
    ears *= 1.0 - back * _inside((t["hair_length"] - 0.1) * 4.0)
    _lay(image, ears, (0.4 * t["light_x"] * t["skin_tone"]) * head.u + 0.75 * t["skin_tone"])


def _skin(t: Traits, head: Head, grain: Floats) -> Floats:
    """The bare face: skin under a light, with cheekbones in relief."""
    light = 0.62 + 0.42 * head.bulge
    light += t["light_x"] * head.across
    light += t["light_y"] * head.v
    cheek_u = (np.abs(head.face_u) - 0.40) / 0.28
    cheek_v = (head.face_v - 0.27) / 0.24
    light += 0.08 * _blob(cheek_u * cheek_u + cheek_v * cheek_v)
    light += 0.012 * grain
    light *= t["skin_tone"]
    return light


def _beard(t: Traits, head: Head, grain: Floats, face: Floats) -> None:
    """From a shadow to a full beard, below the cheeks, its stubble as rough as it is dense."""
    grown = np.flatnonzero(t["beard"][:, 0, 0] > 0)
    density = np.minimum(t["beard"][grown], 1.0)
    u, v = head.face_u[grown], head.face_v[grown]
    flat = u * u
    cheek_u, cheek_v = (np.abs(u) - 0.34) / 0.34, (v - 0.12) / 0.42
    area = _inside((cheek_u * cheek_u + cheek_v * cheek_v - 1.0) * 2.5)
    area *= _inside((v - t["nose_length"][grown] - 0.04 + 0.45 * flat) * 9.0)
    area *= density * (0.72 + 0.16 * grain[grown])
    skin = t["skin_tone"][grown]
    tone = np.minimum(t["hair_tone"][grown], 0.8 * skin)
    bearded = face[grown]
    _lay(bearded, area, tone * (0.6 + (0.5 / skin) * bearded))
    face[grown] = bearded


def _eyes(t: Traits, head: Head, grain: Floats, face: Floats, size: int) -> None:
    """Sockets, eyes, brows, and glasses on some."""
    window = _window(t, size, -0.13, 0.66, 0.52)
    patch, u, v = face.take(window), head.face_u.take(window), head.face_v.take(window)
    side, shade = np.abs(u), patch / t["skin_tone"]
    eye_v = v - (t["eye_height"] - 0.04)
    off = side - t["eye_gap"]
    hollow_u, hollow_v = off / 0.27, (eye_v + 0.06) / 0.19
    patch *= 1.0 - (1.5 * t["socket_depth"]) * _blob(hollow_u * hollow_u + hollow_v * hollow_v)

    eye_u = off / t["eye_width"]
    almond = np.maximum(1.0 - eye_u * eye_u, 0.0)
    soft_ends = np.minimum(almond * 4.0, 1.0)
    lid_height = np.maximum(t["eye_opening"], 0.025) * almond
    white = _inside((lid_height - np.abs(eye_v)) * 22.0) * soft_ends
    _lay(patch, white, (0.30 + 0.55 * t["skin_tone"]) * shade)
    iris = np.minimum(_blob((off * off + eye_v * eye_v) / 0.0081) * 2.0, 1.0)
    _lay(patch, iris * np.minimum(white * 1.4, 1.0), 0.10 * shade)
    lid = (eye_v + lid_height * 1.05) / 0.045
    patch *= 1.0 - (0.9 * np.clip(t["lash"], 0.0, 1.0)) * _blob(lid * lid) * soft_ends

    brow_u = (off - 0.01) / 0.24
    bend = brow_u - 0.25
    brow_v = eye_v + (t["brow_height"] + t["brow_arch"] - 0.06) + t["brow_tilt"] * brow_u
    brow_v -= (2.0 * t["brow_arch"]) * (bend * bend)
    thickness = (0.55 * t["brow_thickness"]) * (1.0 - 0.35 * brow_u)
    brow = _inside((thickness - np.abs(brow_v)) * 20.0) * _inside((1.0 - brow_u * brow_u) * 2.5)
    brow *= 0.72 + 0.1 * grain.take(window)
    _lay(patch, brow, np.minimum(t["hair_tone"], t["skin_tone"] * 0.75) * (0.35 + 0.5 * shade))

    worn = np.flatnonzero(t["glasses"][:, 0, 0] < GLASSES_SHARE)
    lens_u, lens_v = off[worn] / 0.25, (eye_v[worn] - 0.02) / 0.19
    lens_u, lens_v = lens_u * lens_u, lens_v * lens_v
    ring = lens_u * lens_u + lens_v * lens_v + lens_u + lens_v - 2.0
    bar = (eye_v[worn] + 0.05) / 0.05
    bridge = _inside((0.10 - side[worn]) * 20.0) * _blob(bar * bar)
    patch[worn] *= 1.0 - 0.7 * np.maximum(_blob(ring * ring * 0.7), bridge)
    face.put(window, patch)


def _nose_and_mouth(t: Traits, head: Head, face: Floats, size: int) -> None:
    """The nose in relief, nostrils, creases, lips, and the hollow above the chin."""
    window = _window(t, size, 0.36, 0.50, 0.50)
    patch, u, v = face.take(window), head.face_u.take(window), head.face_v.take(window)
    side = np.abs(u)
    tip = t["nose_length"]
    along = np.clip((v + 0.08) / (tip + 0.08), 0.0, 1.0)
    across = u / (t["nose_width"] * (0.55 + 0.45 * along))
    ridge = _blob(across * across * 0.55)
    ridge *= _inside((v + 0.08) * 7.0) * _inside((tip + 0.03 - v) * 14.0)
    patch += t["skin_tone"] * ridge * (0.10 + (2.2 * t["light_x"] * t["nose_relief"]) * across)
    nostril_u, nostril_v = (side - t["nose_width"] * 0.55) / 0.075, (v - tip - 0.03) / 0.055
    base_u, base_v = u / (t["nose_width"] * 1.5), (v - tip - 0.05) / 0.07
    dark = 0.38 * _blob(nostril_u * nostril_u + nostril_v * nostril_v)
    dark += 0.22 * _blob(base_u * base_u + base_v * base_v)
    crease_u, crease_v = (side - 0.55 * v - 0.02) / 0.05, (v - 0.42) / 0.2
    dark += (1.6 * np.maximum(t["wrinkles"], 0.0)) * _blob(crease_u * crease_u) * _blob(crease_v * crease_v)
    hollow_u, hollow_v = u / 0.25, (v - t["mouth_height"] - 0.17) / 0.07
    dark += 0.13 * _blob(hollow_u * hollow_u + hollow_v * hollow_v)
    patch *= 1.0 - dark

    mouth_u = u / t["mouth_width"]
    mouth_u *= mouth_u
    mouth_v = v - t["mouth_height"] + t["smile"] * (mouth_u - 0.4)
    bow = np.maximum(1.0 - mouth_u, 0.0)
    soft_ends = np.minimum(bow * 4.0, 1.0)
    gap, fullness = np.maximum(t["mouth_opening"], 0.0), np.maximum(t["lip_fullness"], 0.02)
    lips = _inside((1.1 * (fullness + gap) * bow - np.abs(mouth_v - 0.2 * fullness)) * 18.0) * soft_ends
    # The upper lip turns away from light above, the lower towards it.
    patch *= 1.0 - lips * (np.clip(t["lip_contrast"], 0.0, 0.8) + 4.0 * t["light_y"] * mouth_v)
    part = mouth_v / (0.035 + gap)
    teeth = _inside((gap - 0.03) * 60.0)
    patch *= 1.0 - (0.75 - 0.60 * teeth) * _blob(part * part) * soft_ends
    face.put(window, patch)


def _forelock(t: Traits, head: Head, image: Floats, hair: Floats, spread: Floats, back: Floats) -> None:
    """Hair before the forehead, from fringe to bald, and before the temples."""
    from_parting = head.u - 0.6 * t["hair_parting"]
    edge = t["hairline"] + t["hairline_curve"] * (from_parting * from_parting)
    cap = _inside((edge - head.v) * 7.0)
    cap *= _inside((1.0 - spread) * 4.0)
    cap *= _inside(t["hair_cover"])
    temple = _inside((head.side - t["head_width"] * 0.93 + 0.1 * head.v) * 9.0)
    temple *= back
    _lay(image, np.maximum(cap, temple), hair * (0.8 + 0.5 * head.bulge))


def _photograph(t: Traits, image: Floats, grain: Floats, x: Floats, y: Floats) -> npt.NDArray[np.uint8]:
    """Lens and sensor: blur, exposure, tone curve, dark corners, grain, 8 bits."""
    image = _blur(image, t["blur"])
    image *= t["contrast"]
    image += t["exposure"] + 0.45 * (1.0 - t["contrast"])
    image += t["tone_curve"] * (image - image * image)
    image -= t["vignette"] * (x * x + y * y)
    image += t["noise"] * grain
    np.clip(image, 0.0, 1.0, out=image)
    image *= 255.0
    return np.rint(image, out=image).astype(np.uint8)
