"""Small pictures of every kind of file, which `data.py --kinds` writes to tests/pictures; all are made from rgb.png there.

`RAW` names what Pillow cannot open, or opens to pixels of no use: the file, the options of `Decode`, and the array that it holds.
"""

import io
import struct
import zlib

import numpy as np
from PIL import Image, TiffImagePlugin

RAW = []


def raw(name, values, **options):
    """What the file holds: bytes, or real numbers for a bit depth of 16 or 32."""
    wide = options.get("bit_depth", 8) > 8
    RAW.append((name, options, np.ascontiguousarray(values, dtype="<f4" if wide else np.uint8)))


def tiff(path, a, photometric=1, planar=False, tile=None, rows=None, big=False, bigtiff=False, deflate=False, predictor=1, tags=()):
    """Writes the array (height, width, channels) as a TIFF, also in forms that Pillow does not write."""
    e = ">" if big else "<"
    h, w, c = a.shape
    a = a.astype(a.dtype.newbyteorder(e))
    th, tw = tile if tile else (rows or h, w)
    chunks = []
    for plane in [a[:, :, [k]] for k in range(c)] if planar else [a]:
        for y in range(0, h, th):
            for x in range(0, w, tw):
                part = plane[y : y + th, x : x + tw]
                if tile:
                    part = np.pad(part, ((0, th - part.shape[0]), (0, tw - part.shape[1]), (0, 0)))
                if predictor == 2:
                    part = np.concatenate([part[:, :1], np.diff(part.astype(np.int64), axis=1)], axis=1).astype(a.dtype)
                data = np.ascontiguousarray(part).tobytes()
                if predictor == 3:
                    n = part.dtype.itemsize
                    split = part.astype(part.dtype.newbyteorder(">")).reshape(part.shape[0], -1).view(np.uint8)
                    split = split.reshape(part.shape[0], -1, n).transpose(0, 2, 1).reshape(part.shape[0], -1)
                    step = part.shape[2]
                    split[:, step:] = split[:, step:] - split[:, :-step]
                    data = split.tobytes()
                chunks.append(zlib.compress(data, 9) if deflate else data)
    kind = {"u": 1, "i": 2, "f": 3}[a.dtype.kind]
    entries = [(256, 3, [w]), (257, 3, [h]), (258, 3, [a.dtype.itemsize * 8] * c), (259, 3, [8 if deflate else 1])]
    entries += [(262, 3, [photometric]), (277, 3, [c]), (284, 3, [2 if planar else 1]), (339, 3, [kind] * c), (317, 3, [predictor])]
    extra = c - {2: 3, 5: 4}.get(photometric, 1)
    if extra > 0 and not any(t[0] == 338 for t in tags):
        entries.append((338, 3, [0] * extra))
    entries += [(322, 3, [tw]), (323, 3, [th])] if tile else [(278, 3, [th])]
    entries += list(tags)
    where, sizes = (324, 325) if tile else (273, 279)
    entries += [(where, 4, [0] * len(chunks)), (sizes, 4, [len(x) for x in chunks])]
    entries.sort()
    size, count, room = (20, "Q", 8) if bigtiff else (12, "H", 4)
    at = (16 if bigtiff else 8) + struct.calcsize(e + count) + size * len(entries) + room
    pack = {3: "H", 4: "I"}
    values, place = {}, at
    for tag, t, v in entries:
        b = struct.pack(e + pack[t] * len(v), *v)
        if len(b) > room:
            values[tag] = place
            place += len(b)
    offsets = []
    for x in chunks:
        offsets.append(place)
        place += len(x)
    out = (b"MM" if big else b"II") + (struct.pack(e + "HHHQ", 43, 8, 0, 16) if bigtiff else struct.pack(e + "HI", 42, 8))
    out += struct.pack(e + count, len(entries))
    tail = b""
    for tag, t, v in entries:
        v = offsets if tag == where else v
        b = struct.pack(e + pack[t] * len(v), *v)
        out += struct.pack(e + "HH" + ("Q" if bigtiff else "I"), tag, t, len(v))
        if len(b) > room:
            tail += b
            b = struct.pack(e + ("Q" if bigtiff else "I"), values[tag])
        out += b.ljust(room, b"\0")
    out += b"\0" * room + tail + b"".join(chunks)
    path.write_bytes(out)


def gif(path, screen, frame, offset, colors, transparent=None, background=0, interlaced=False, local=False):
    """One frame at a place of a larger canvas."""
    w, h = frame.shape[1], frame.shape[0]
    table = bytes(colors)
    bits = 4
    out = b"GIF89a" + struct.pack("<HHBBB", *screen, (0 if local else 0x80 | bits - 1), background, 0)
    out += b"" if local else table
    if transparent is not None:
        out += b"\x21\xf9\x04" + struct.pack("<BHB", 1, 0, transparent) + b"\0"
    flags = (0x40 if interlaced else 0) | (0x80 | bits - 1 if local else 0)
    out += b"\x2c" + struct.pack("<HHHHB", *offset, w, h, flags) + (table if local else b"")
    if interlaced:
        frame = np.concatenate([frame[0::8], frame[4::8], frame[2::4], frame[1::2]])
    # Codes of 5 bits with a clear code before the table grows.
    codes = []
    for i, v in enumerate(frame.flatten().tolist()):
        if i % 14 == 0:
            codes.append(16)
        codes.append(v)
    codes.append(17)
    number = sum(code << (5 * i) for i, code in enumerate(codes))
    data = number.to_bytes((5 * len(codes) + 7) // 8, "little")
    out += bytes([bits]) + b"".join(bytes([len(data[i : i + 255])]) + data[i : i + 255] for i in range(0, len(data), 255)) + b"\0;"
    path.write_bytes(out)


def jpeg(image, **options):
    out = io.BytesIO()
    image.save(out, "JPEG", **options)
    return out.getvalue()


def write(folder):
    rng = np.random.default_rng(1)
    base = Image.open(folder / "rgb.png").convert("RGB")
    small = base.resize((21, 13))
    rgb = np.asarray(small)
    gray = small.convert("L")
    alpha = Image.fromarray(rng.integers(0, 256, (13, 21), dtype=np.uint8))
    rgba = small.copy()
    rgba.putalpha(alpha)
    deep = rgb.astype(np.uint16) * 257 ^ rng.integers(0, 256, rgb.shape).astype(np.uint16)

    # What stands behind the end of a picture.
    plain = jpeg(small, quality=90)
    second = jpeg(small.rotate(180), quality=90)
    (folder / "trailer_noise.jpg").write_bytes(plain + rng.integers(0, 256, 900, dtype=np.uint8).tobytes())
    (folder / "trailer_zeros.jpg").write_bytes(plain + bytes(500))
    (folder / "mpo_cut.jpg").write_bytes(plain + second[: len(second) // 2])
    small.save(folder / "two.mpo", save_all=True, append_images=[small.rotate(180)])
    (folder / "trailer.png").write_bytes((folder / "palette.png").read_bytes() + b"and some text behind the end")

    # PNG.
    palette = small.quantize(16)
    palette.save(folder / "palette_transparent.png", transparency=3)
    small.save(folder / "rgb_transparent.png", transparency=(10, 20, 30))
    gray.point(lambda v: v // 85 * 85).quantize(4).save(folder / "two_bit.png", bits=2)
    small.save(folder / "animated.png", save_all=True, append_images=[small.rotate(180)], duration=100)
    exif = Image.Exif()
    exif[0x0112] = 6
    small.save(folder / "orientation_6.png", exif=exif)
    Image.fromarray(deep[:, :, 0]).save(folder / "gray_16.png")
    raw("gray_16.png", np.repeat((deep[:, :, :1] >> 8), 3, axis=2))
    raw("gray_16.png", deep[:, :, :1] / np.float32(65535), bit_depth=16, channels=1)
    raw("alpha.png", np.asarray(Image.open(folder / "alpha.png")), channels=4)
    raw("rgb.png", np.asarray(base.convert("L"))[:, :, None], channels=1)

    # GIF, WebP, BMP.
    colors = [v for i in range(16) for v in (i * 16, 255 - i * 13, i * 7 % 256)]
    frame = (np.arange(9 * 7).reshape(7, 9) * 5 % 16).astype(np.uint8)
    gif(folder / "offset.gif", (17, 12), frame, (3, 2), colors, background=5)
    gif(folder / "offset_transparent.gif", (17, 12), frame, (3, 2), colors, transparent=7)
    gif(folder / "interlaced.gif", (9, 7), frame, (0, 0), colors, interlaced=True)
    gif(folder / "local_palette.gif", (9, 7), frame, (0, 0), colors, local=True)
    gif(folder / "larger_frame.gif", (5, 4), frame, (1, 1), colors)
    base.save(folder / "lossy.webp", quality=80)
    rgba.save(folder / "alpha.webp", quality=80)
    rgba.save(folder / "alpha_lossless.webp", lossless=True, exact=True)
    small.save(folder / "animated.webp", save_all=True, append_images=[small.rotate(180)], duration=100, lossless=True)
    small.save(folder / "orientation_6.webp", lossless=True, exif=exif)
    gray.save(folder / "gray.bmp")
    palette.save(folder / "palette.bmp")
    small.convert("1").save(folder / "one_bit.bmp")
    rgba.save(folder / "alpha.bmp")
    w, h = small.size
    row = (w * 3 + 3) // 4 * 4
    top_down = b"".join(rgb[y, :, ::-1].tobytes().ljust(row, b"\0") for y in range(h))
    head = struct.pack("<IiiHHIIiiII", 40, w, -h, 1, 24, 0, len(top_down), 2835, 2835, 0, 0)
    (folder / "top_down.bmp").write_bytes(b"BM" + struct.pack("<IHHI", 54 + len(top_down), 0, 0, 54) + head + top_down)
    five = (rgb >> 3).astype(np.uint16)
    words = (five[:, :, 0] << 10 | five[:, :, 1] << 5 | five[:, :, 2]).astype("<u2")
    data = b"".join(words[y].tobytes().ljust((w * 2 + 3) // 4 * 4, b"\0") for y in range(h - 1, -1, -1))
    head = struct.pack("<IiiHHIIiiII", 40, w, h, 1, 16, 0, len(data), 2835, 2835, 0, 0)
    (folder / "sixteen_bit.bmp").write_bytes(b"BM" + struct.pack("<IHHI", 54 + len(data), 0, 0, 54) + head + data)
    words = ((rgb[:, :, 0] >> 3).astype(np.uint16) << 11 | (rgb[:, :, 1] >> 2).astype(np.uint16) << 5 | rgb[:, :, 2] >> 3).astype("<u2")
    data = b"".join(words[y].tobytes().ljust((w * 2 + 3) // 4 * 4, b"\0") for y in range(h - 1, -1, -1))
    head = struct.pack("<IiiHHIIiiII", 40, w, h, 1, 16, 3, len(data), 2835, 2835, 0, 0) + struct.pack("<III", 0xF800, 0x7E0, 0x1F)
    (folder / "sixteen_bit_565.bmp").write_bytes(b"BM" + struct.pack("<IHHI", 66 + len(data), 0, 0, 66) + head + data)
    places = np.asarray(palette)
    runs = b""
    for y in range(h - 1, -1, -1):
        runs += b"".join(bytes([1, v]) for v in places[y].tolist()) + b"\0\0"
    runs += b"\0\1"
    table = bytes(v for p in np.asarray(palette.getpalette()[:48], dtype=np.uint8).reshape(-1, 3).tolist() for v in (p[2], p[1], p[0], 0))
    head = struct.pack("<IiiHHIIiiII", 40, w, h, 1, 8, 1, len(runs), 2835, 2835, 16, 0)
    (folder / "rle8.bmp").write_bytes(b"BM" + struct.pack("<IHHI", 118 + len(runs), 0, 0, 118) + head + table + runs)

    # TIFF by Pillow.
    small.save(folder / "plain.tif")
    for name in ("lzw", "adobe_deflate", "packbits", "jpeg"):
        small.save(folder / f"{name}.tif", compression=name if name == "jpeg" else f"tiff_{name}")
    gray.save(folder / "gray_jpeg.tif", compression="jpeg")
    small.save(folder / "lzw_differences.tif", compression="tiff_lzw", tiffinfo={317: 2})
    gray.save(folder / "gray.tif", compression="tiff_lzw")
    small.convert("1").save(folder / "one_bit.tif")
    palette.save(folder / "palette.tif", compression="tiff_lzw")
    rgba.save(folder / "alpha.tif", compression="tiff_lzw")
    small.convert("CMYK").save(folder / "cmyk.tif", compression="tiff_lzw")
    small.save(folder / "pages.tif", save_all=True, append_images=[small.rotate(180)], compression="tiff_lzw")
    turned = TiffImagePlugin.ImageFileDirectory_v2()
    turned[274] = 6
    small.save(folder / "orientation_6.tif", tiffinfo=turned, compression="tiff_lzw")
    # TIFF by hand.
    tiff(folder / "planar.tif", rgb, photometric=2, planar=True, rows=5)
    tiff(folder / "tiles.tif", rgb, photometric=2, tile=(16, 16), deflate=True)
    tiff(folder / "tiles_planar.tif", rgb, photometric=2, tile=(16, 16), planar=True, deflate=True, big=True)
    tiff(folder / "white_is_zero.tif", rgb[:, :, :1], photometric=0)
    tiff(folder / "premultiplied.tif", np.asarray(rgba), photometric=2, deflate=True, tags=[(338, 3, [1])])
    tiff(folder / "big.tif", rgb, photometric=2, bigtiff=True, deflate=True)
    tiff(folder / "rgb_16.tif", deep, photometric=2, big=True, deflate=True, predictor=2)
    raw("rgb_16.tif", deep >> 8)
    raw("rgb_16.tif", deep / np.float32(65535), bit_depth=16)
    tiff(folder / "gray_16.tif", deep[:, :, :1], deflate=True)
    raw("gray_16.tif", np.repeat(deep[:, :, :1] >> 8, 3, axis=2))
    bands = rng.integers(0, 10000, (9, 8, 13)).astype(np.uint16)
    for name, form in (("bands", {}), ("bands_planar", {"planar": True}), ("bands_tiles", {"tile": (16, 16), "planar": True, "big": True})):
        tiff(folder / f"{name}.tif", bands, deflate=True, **form)
        raw(f"{name}.tif", bands / np.float32(65535), bit_depth=16, channels=13)
        raw(f"{name}.tif", bands >> 8, channels=13)
    real = (rng.normal(size=(9, 8, 2)) * 50).astype(np.float32)
    tiff(folder / "real.tif", real, deflate=True, predictor=3)
    raw("real.tif", real, bit_depth=32, channels=2)
    tiff(folder / "real_big.tif", real, deflate=True, predictor=3, big=True, planar=True)
    raw("real_big.tif", real, bit_depth=32, channels=2)
    signed = rng.integers(-2000, 2000, (9, 8, 1)).astype(np.int16)
    tiff(folder / "signed.tif", signed, deflate=True, predictor=2)
    raw("signed.tif", signed, bit_depth=32, channels=1)

    # PNM.
    gray.save(folder / "gray.pgm")
    small.save(folder / "rgb.ppm")
    small.convert("1").save(folder / "bits.pbm")
    tiny = np.asarray(small)[:4, :5]
    text = lambda a: "\n".join(" ".join(map(str, row)) for row in a.reshape(a.shape[0], -1).tolist())
    (folder / "text.ppm").write_text(f"P3\n# made by hand\n5 4\n255\n{text(tiny)}\n")
    (folder / "text.pgm").write_text(f"P2 5 4 # a comment\n 100\n{text(tiny[:, :, 0] % 101)}\n")
    (folder / "text.pbm").write_text("P1\n5 4\n01011\n10100 0 0 0 1 1\n1 1 0 1 0\n")
    (folder / "most_100.ppm").write_bytes(b"P6 5 4 100\n" + (tiny % 101).tobytes())
    (folder / "wide.ppm").write_bytes(b"P6 21 13 65535\n" + deep.astype(">u2").tobytes())
    raw("wide.ppm", deep / np.float32(65535), bit_depth=16)
    twelve = (deep[:, :, 0] >> 4).astype(np.uint16)
    (folder / "twelve.pgm").write_bytes(b"P5 21 13 4095\n" + twelve.astype(">u2").tobytes())
    scaled = np.round(twelve.astype(np.float64) * 65535 / 4095).astype(np.uint16)
    raw("twelve.pgm", scaled[:, :, None] / np.float32(65535), bit_depth=16, channels=1)
    raw("twelve.pgm", np.repeat((scaled >> 8)[:, :, None], 3, axis=2))
    arbitrary = b"P7\nWIDTH 21\nHEIGHT 13\nDEPTH 4\nMAXVAL 255\nTUPLTYPE RGB_ALPHA\nENDHDR\n"
    (folder / "arbitrary.pam").write_bytes(arbitrary + np.asarray(rgba).tobytes())
    raw("arbitrary.pam", rgb)
    raw("arbitrary.pam", np.asarray(rgba), channels=4)

    # NPY.
    np.save(folder / "rgb.npy", rgb)
    raw("rgb.npy", rgb)
    np.save(folder / "gray_16.npy", deep[:, :, 0].astype(">u2"))
    raw("gray_16.npy", deep[:, :, :1] / np.float32(65535), bit_depth=16, channels=1)
    np.save(folder / "bands_first.npy", np.asfortranarray(bands[:, :, :5].transpose(2, 0, 1)))
    raw("bands_first.npy", bands[:, :, :5] / np.float32(65535), bit_depth=16, channels=5)
    np.save(folder / "real.npy", real.astype(np.float64))
    raw("real.npy", real, bit_depth=32, channels=2)
