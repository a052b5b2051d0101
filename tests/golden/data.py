"""Golden results of image operations: `python tests/golden/data.py [SKIMAGE_DATA]` with requirements.txt.

Writes data.json: for each case the operation as candlelight serialises it, the picture, and the crc32 of what Pillow, timm,
torchvision or OpenCV make of it. With the data folder of scikit-image given, it first makes tests/pictures from it.
`data.py --kinds` first makes the pictures of kinds.py, from rgb.png of tests/pictures. `data.py PHOTOS OUT.json` makes what the ignored test `photos_of_ones_own` reads.
"""

import json
import shutil
import sys
import tempfile
import zlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageFilter, ImageOps
from timm.data import auto_augment as timm
from torchvision.transforms import functional as F

import kinds

HERE = Path(__file__).parent
PICTURES = HERE.parent / "pictures"
FILTERS = {f.name.lower(): f for f in Image.Resampling if not f.name.startswith("MKS")}
FILL = (124, 116, 104)


def pictures(source):
    PICTURES.mkdir(exist_ok=True)
    for name, size in (("astronaut.png", 256), ("chelsea.png", 225), ("coffee.png", 300), ("rocket.jpg", 320)):
        image = Image.open(Path(source) / name).convert("RGB")
        image.thumbnail((size, size), Image.LANCZOS)
        image.save(PICTURES / f"{Path(name).stem}.jpg", quality=88)
    base = Image.open(PICTURES / "chelsea.jpg").resize((40, 30))
    rng = np.random.default_rng(0)
    base.save(PICTURES / "rgb.png")
    base.convert("L").save(PICTURES / "gray.jpg")
    base.convert("L").save(PICTURES / "gray.png")
    base.convert("1").save(PICTURES / "one_bit.png")
    base.convert("P", palette=Image.Palette.ADAPTIVE, colors=16).save(PICTURES / "palette.png")
    alpha = Image.fromarray(rng.integers(0, 256, (30, 40), dtype=np.uint8))
    rgba = base.copy()
    rgba.putalpha(alpha)
    rgba.save(PICTURES / "alpha.png")
    la = base.convert("L")
    la.putalpha(alpha)
    la.save(PICTURES / "gray_alpha.png")
    wide = np.asarray(base).astype(np.uint16) * 257 + rng.integers(0, 100, (30, 40, 3)).astype(np.uint16)
    cv2.imwrite(str(PICTURES / "sixteen_bit.png"), wide[:, :, ::-1])
    base.convert("CMYK").save(PICTURES / "cmyk.jpg", quality=90)
    base.save(PICTURES / "progressive.jpg", progressive=True, quality=90)
    base.save(PICTURES / "full_chroma.jpg", subsampling=0, quality=95)
    base.save(PICTURES / "lossless.webp", lossless=True)
    base.save(PICTURES / "plain.bmp")
    frames = [base.quantize(32), base.rotate(90).quantize(32)]
    frames[0].save(PICTURES / "animated.gif", save_all=True, append_images=frames[1:], duration=100)
    exif = Image.Exif()
    for orientation in (3, 6, 7):
        exif[0x0112] = orientation
        base.save(PICTURES / f"orientation_{orientation}.jpg", exif=exif, quality=90)


def crc(image):
    data = np.ascontiguousarray(np.asarray(image))
    h, w = data.shape[:2]
    return {"width": w, "height": h, "crc32": zlib.crc32(data.tobytes())}


CASES = []


def case(picture, op, result):
    CASES.append({"picture": picture, "op": op, **crc(result)})


def operations(name, image):
    w, h = image.size
    for op, f in (("auto_contrast", timm.auto_contrast), ("equalize", timm.equalize), ("invert", timm.invert)):
        case(name, {"op": op}, f(image))
    case(name, {"op": "grayscale"}, F.to_grayscale(image, len(image.getbands())))
    for bits in (1, 3, 4, 7, 8):
        case(name, {"op": "posterize", "bits": bits}, timm.posterize(image, bits))
    for threshold in (0, 26, 128, 256):
        case(name, {"op": "solarize", "threshold": threshold}, timm.solarize(image, threshold))
    for add in (11, 99, 128):
        case(name, {"op": "solarize_add", "add": add}, timm.solarize_add(image, add))
    for factor in (0.0, 0.1, 0.19, 0.73, 1.0, 1.27, 1.81, 2.0):
        for op in ("color", "contrast", "brightness", "sharpness"):
            case(name, {"op": op, "factor": factor}, getattr(timm, op)(image, factor))
    if image.mode == "RGB":
        for shift in (-0.5, -0.1, 0.03, 0.25, 0.5):
            case(name, {"op": "hue", "shift": shift}, F.adjust_hue(image, shift))
    for radius in (0.1, 0.5, 1.0, 1.7, 2.0, 6.3):
        case(name, {"op": "gaussian_blur", "radius": radius}, image.filter(ImageFilter.GaussianBlur(radius)))
    fill = FILL if image.mode == "RGB" else None
    for filter in ("nearest", "bilinear", "bicubic"):
        common = {"filter": filter, "fill": list(FILL if fill else (0, 0, 0))}
        kw = dict(resample=FILTERS[filter], fillcolor=fill if fill else 0)
        for degrees in (-27.0, 3.3, 45.0, 90.0, 135.0, 180.0, 270.0):
            case(name, {"op": "rotate", "degrees": degrees, **common}, timm.rotate(image, degrees, **kw))
        for v in (-0.27, 0.1):
            case(name, {"op": "affine", "matrix": [1, v, 0, 0, 1, 0], **common}, timm.shear_x(image, v, **kw))
            case(name, {"op": "affine", "matrix": [1, 0, 0, v, 1, 0], **common}, timm.shear_y(image, v, **kw))
            case(name, {"op": "affine", "matrix": [1, 0, v * w, 0, 1, 0], **common}, timm.translate_x_rel(image, v, **kw))
            case(name, {"op": "affine", "matrix": [1, 0, 0, 0, 1, v * h], **common}, timm.translate_y_rel(image, v, **kw))
        matrix = [0.9, -0.2, 7.5, 0.15, 1.1, -3.25]
        case(name, {"op": "affine", "matrix": matrix, **common}, image.transform((w, h), Image.AFFINE, matrix, **kw))
        c = [1.05, 0.12, -4.0, -0.03, 0.97, 2.5, 0.0004, -0.0003]
        case(name, {"op": "perspective", "coefficients": c, **common}, image.transform((w, h), Image.PERSPECTIVE, c, **kw))
    case(name, {"op": "flip_horizontal"}, ImageOps.mirror(image))
    case(name, {"op": "flip_vertical"}, ImageOps.flip(image))
    case(name, {"op": "crop", "x": 3, "y": 5, "width": 17, "height": 11}, image.crop((3, 5, 20, 16)))
    for mode in ("constant", "edge", "reflect", "symmetric"):
        value = FILL if image.mode == "RGB" else 0
        got = F.pad(image, [2, 3, 4, 5], fill=value if mode == "constant" else 0, padding_mode=mode)
        op = {"op": "pad", "sides": [2, 3, 4, 5], "mode": mode, "fill": list(FILL if image.mode == "RGB" else (0, 0, 0))}
        case(name, op, got)


def resizes(name, image):
    w, h = image.size
    sizes = [(224, 224), (1, 1), (w * 2 + 1, h // 3 + 1), (5, h), (w, 7), (33, 300), (w, h)]
    for filter, f in FILTERS.items():
        for nw, nh in sizes:
            case(name, {"op": "resize", "width": nw, "height": nh, "filter": filter}, image.resize((nw, nh), f))
        for box in ((0.0, 0.0, w / 2, h / 2), (1.25, 2.5, w - 3.75, h - 0.5), (w / 3, h / 4, w / 3 + 1.5, h / 4 + 2)):
            if not (0 <= box[0] < box[2] <= w and 0 <= box[1] < box[3] <= h):
                continue
            op = {"op": "resize_box", "window": list(box), "width": 31, "height": 29, "filter": filter}
            case(name, op, image.resize((31, 29), f, box=box))
    for nw, nh in ((224, 224), (17, 301), (w // 3 + 1, h // 2 + 1), (2 * w, h)):
        got = cv2.resize(np.asarray(image), (nw, nh), interpolation=cv2.INTER_LINEAR)
        case(name, {"op": "resize_opencv", "width": nw, "height": nh}, got)


def photos(folder, out):
    """The same for any folder of photos: decoding, and one crop resized by each antialiasing filter."""
    cases, rng = [], np.random.default_rng(0)
    for path in sorted(Path(folder).iterdir()):
        image = Image.open(path).convert("RGB")
        w, h = image.size
        cases.append({"picture": path.name, **crc(image)})
        cw, ch = int(rng.integers(1, w + 1)), int(rng.integers(1, h + 1))
        x, y = int(rng.integers(0, w - cw + 1)), int(rng.integers(0, h - ch + 1))
        for filter in ("bilinear", "bicubic", "lanczos", "box"):
            got = image.crop((x, y, x + cw, y + ch)).resize((224, 224), FILTERS[filter])
            cases.append({"picture": path.name, "crop": [x, y, cw, ch], "filter": filter, **crc(got)})
    Path(out).write_text(json.dumps(cases))


def main():
    if len(sys.argv) > 2:
        return photos(*sys.argv[1:3])
    if len(sys.argv) > 1 and sys.argv[1] != "--kinds":
        pictures(sys.argv[1])
    if len(sys.argv) > 1:
        kinds.write(PICTURES)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            shutil.copytree(PICTURES, scratch, dirs_exist_ok=True)
            kinds.write(Path(scratch))
    cv2.setNumThreads(1)
    decoded = []
    for path in sorted(PICTURES.iterdir()):
        if path.suffix == ".md":
            continue
        if any(name == path.name and options == {} for name, options, _ in kinds.RAW):
            continue
        try:
            image = Image.open(path)
            image.load()
        except Exception as e:
            assert any(name == path.name for name, _, _ in kinds.RAW), f"{path.name}: {e}"
            continue
        if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK"):
            assert path.stem == "sixteen_bit" or any(name == path.name for name, _, _ in kinds.RAW), (path.name, image.mode)
            continue
        plain = image
        if path.name == "sixteen_bit.png":
            plain = Image.fromarray((cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[:, :, ::-1] >> 8).astype(np.uint8))
        decoded.append({"picture": path.name, "turned": False, **crc(plain.convert("RGB"))})
        if path.stem.startswith("orientation"):
            decoded.append({"picture": path.name, "turned": True, **crc(ImageOps.exif_transpose(image).convert("RGB"))})
    for name, options, values in kinds.RAW:
        decoded.append({"picture": name, "turned": False, "options": options, **crc(values)})
    red = Image.open(PICTURES / "chelsea.jpg").convert("RGB").getchannel("R").convert("F")
    reals = []
    for filter, f in FILTERS.items():
        for size in ((50, 31), (300, 20), (20, 300), (225, 100)):
            got = red.resize(size, f)
            reals.append({"width": size[0], "height": size[1], "filter": filter, "crc32": zlib.crc32(np.asarray(got, "<f4").tobytes())})
    for name in ("astronaut.jpg", "chelsea.jpg", "coffee.jpg", "rocket.jpg"):
        image = Image.open(PICTURES / name).convert("RGB")
        operations(name, image)
        resizes(name, image)
    small = Image.open(PICTURES / "rgb.png")
    operations("rgb.png", small)
    for name, size in (("1x1", (1, 1)), ("1x9", (1, 9)), ("9x1", (9, 1)), ("2x3", (2, 3))):
        part = small.crop((7, 7, 7 + size[0], 7 + size[1]))
        resizes(f"rgb.png:{name}", part)
    gray = Image.open(PICTURES / "gray.png")
    operations("gray.png", gray)
    resizes("gray.png", gray)
    (HERE / "data.json").write_text(
        "{\"decoded\": [\n" + ",\n".join(json.dumps(c) for c in decoded) + "\n], \"reals\": [\n" + ",\n".join(json.dumps(c) for c in reals) + "\n], \"cases\": [\n" + ",\n".join(json.dumps(c) for c in CASES) + "\n]}\n"
    )
    print(len(decoded), "pictures,", len(CASES), "cases")


main()
