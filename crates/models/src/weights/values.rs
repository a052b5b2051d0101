//! Numbers as files store them, and the tensors that become of them.

use candle_core::{Device, Tensor};

/// The type of the numbers of a stored tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Bool,
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F16,
    Bf16,
    F32,
    F64,
}

/// Every type with its name in safetensors, its name in torch, and torch's name of a storage of it.
const KINDS: [(Kind, &str, &str, &str); 13] = [
    (Kind::Bool, "BOOL", "bool", "BoolStorage"),
    (Kind::U8, "U8", "uint8", "ByteStorage"),
    (Kind::I8, "I8", "int8", "CharStorage"),
    (Kind::U16, "U16", "uint16", "UInt16Storage"),
    (Kind::I16, "I16", "int16", "ShortStorage"),
    (Kind::U32, "U32", "uint32", "UInt32Storage"),
    (Kind::I32, "I32", "int32", "IntStorage"),
    (Kind::U64, "U64", "uint64", "UInt64Storage"),
    (Kind::I64, "I64", "int64", "LongStorage"),
    (Kind::F16, "F16", "float16", "HalfStorage"),
    (Kind::Bf16, "BF16", "bfloat16", "BFloat16Storage"),
    (Kind::F32, "F32", "float32", "FloatStorage"),
    (Kind::F64, "F64", "float64", "DoubleStorage"),
];

impl Kind {
    /// The type that safetensors calls `name`.
    pub(crate) fn of_safetensors(name: &str) -> Result<Self, String> {
        KINDS.iter().find(|k| k.1 == name).map(|k| k.0).ok_or_else(|| unreadable(name))
    }

    /// The type that torch calls `name`, be it a dtype or a storage.
    pub(crate) fn of_torch(name: &str) -> Result<Self, String> {
        KINDS.iter().find(|k| k.2 == name || k.3 == name).map(|k| k.0).ok_or_else(|| unreadable(name))
    }

    /// torch's name.
    pub(crate) fn name(self) -> &'static str {
        KINDS.iter().find(|k| k.0 == self).map_or("", |k| k.2)
    }

    /// Bytes of one number.
    pub(crate) fn size(self) -> usize {
        match self {
            Kind::Bool | Kind::U8 | Kind::I8 => 1,
            Kind::U16 | Kind::I16 | Kind::F16 | Kind::Bf16 => 2,
            Kind::U32 | Kind::I32 | Kind::F32 => 4,
            Kind::U64 | Kind::I64 | Kind::F64 => 8,
        }
    }

    /// Whether reading widens these numbers to f32; f64, which is narrowed, counts too.
    pub(crate) fn is_widened(self) -> bool {
        matches!(self, Kind::F16 | Kind::Bf16 | Kind::F64)
    }

    /// The tensor of row-major `bytes`: f32 for every float, u8 for bool, i64 for every integer. `big` is true if the most significant
    /// byte of a number comes first.
    ///
    /// # Errors
    /// When the bytes are not those of the shape, or an integer is larger than an i64 holds.
    pub(crate) fn decode(self, mut bytes: Vec<u8>, dims: &[usize], big: bool) -> Result<Tensor, String> {
        let size = self.size();
        let count = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).and_then(|n| n.checked_mul(size));
        if count != Some(bytes.len()) {
            return Err(format!("{dims:?} of {} are not {} bytes", self.name(), bytes.len()));
        }
        if big {
            bytes.chunks_exact_mut(size).for_each(<[u8]>::reverse);
        }
        fn each<const N: usize, T>(bytes: &[u8], f: impl Fn([u8; N]) -> T) -> Vec<T> {
            bytes
                .chunks_exact(N)
                .map(|c| {
                    let mut word = [0; N];
                    word.copy_from_slice(c);
                    f(word)
                })
                .collect()
        }
        let floats = |v: Vec<f32>| Tensor::from_vec(v, dims, &Device::Cpu).map_err(|e| e.to_string());
        let integers = |v: Vec<i64>| Tensor::from_vec(v, dims, &Device::Cpu).map_err(|e| e.to_string());
        match self {
            Kind::F32 => floats(each(&bytes, f32::from_le_bytes)),
            Kind::F64 => floats(each(&bytes, |b| f64::from_le_bytes(b) as f32)),
            Kind::F16 => floats(each(&bytes, |b| half(u16::from_le_bytes(b)))),
            // A bf16 is the upper half of an f32.
            Kind::Bf16 => floats(each(&bytes, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16))),
            Kind::Bool => {
                let v = bytes.into_iter().map(|b| u8::from(b != 0)).collect::<Vec<_>>();
                Tensor::from_vec(v, dims, &Device::Cpu).map_err(|e| e.to_string())
            }
            Kind::U8 => integers(each(&bytes, |[b]: [u8; 1]| i64::from(b))),
            Kind::I8 => integers(each(&bytes, |b| i64::from(i8::from_le_bytes(b)))),
            Kind::U16 => integers(each(&bytes, |b| i64::from(u16::from_le_bytes(b)))),
            Kind::I16 => integers(each(&bytes, |b| i64::from(i16::from_le_bytes(b)))),
            Kind::U32 => integers(each(&bytes, |b| i64::from(u32::from_le_bytes(b)))),
            Kind::I32 => integers(each(&bytes, |b| i64::from(i32::from_le_bytes(b)))),
            Kind::I64 => integers(each(&bytes, i64::from_le_bytes)),
            Kind::U64 => {
                let v = each(&bytes, u64::from_le_bytes);
                let v = v.into_iter().map(i64::try_from).collect::<Result<Vec<_>, _>>();
                integers(v.map_err(|_| "an integer above 2^63".to_string())?)
            }
        }
    }
}

/// An IEEE half as f32, exactly.
fn half(bits: u16) -> f32 {
    let (sign, exponent, fraction) = (u32::from(bits >> 15) << 31, (bits >> 10) & 31, u32::from(bits & 1023));
    match exponent {
        // Zero and the numbers below the smallest normal one: multiples of 2^-24.
        0 => f32::from_bits(sign | (fraction as f32 / 16_777_216.0).to_bits()),
        31 => f32::from_bits(sign | 0x7f80_0000 | fraction << 13),
        e => f32::from_bits(sign | (u32::from(e) + 112) << 23 | fraction << 13),
    }
}

fn unreadable(name: &str) -> String {
    let lower = name.to_lowercase();
    let (what, todo) = if lower.contains("complex") || lower == "c64" || lower == "c128" {
        ("complex numbers", "no model here has any; save their real part, `tensor.real`")
    } else if lower.starts_with('q') {
        ("quantised numbers", "save the model before it is quantised, or `tensor.dequantize()`")
    } else if lower.contains("float8") || lower.starts_with("f8") || lower.starts_with("f4") || lower.starts_with("f6")
    {
        ("floats of 8 bits or fewer", "save them as bfloat16 or float32, `tensor.float()`")
    } else {
        ("numbers of a type that is not known here", "save them as float32, `tensor.float()`")
    };
    format!("holds {what} ({name}): {todo}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_is_widened_exactly() {
        for bits in 0..=u16::MAX {
            let (sign, e, f) =
                (if bits >> 15 == 1 { -1.0f64 } else { 1.0 }, i32::from((bits >> 10) & 31), f64::from(bits & 1023));
            let want = match e {
                31 if f > 0.0 => f64::NAN,
                31 => sign * f64::INFINITY,
                0 => sign * f * 2f64.powi(-24),
                _ => sign * (1.0 + f / 1024.0) * 2f64.powi(e - 15),
            };
            let got = f64::from(half(bits));
            assert!(got == want || got.is_nan() && want.is_nan(), "{bits:#x}: {got} for {want}");
        }
    }

    #[test]
    fn numbers_of_every_type_become_f32_i64_or_u8() {
        let f = |k: Kind, b: &[u8], big: bool| {
            let t = k.decode(b.to_vec(), &[b.len() / k.size()], big).unwrap();
            t.to_dtype(candle_core::DType::F64).unwrap().to_vec1::<f64>().unwrap()
        };
        assert_eq!(f(Kind::F32, &1.5f32.to_be_bytes(), true), [1.5]);
        assert_eq!(f(Kind::F64, &(-2.5f64).to_le_bytes(), false), [-2.5]);
        assert_eq!(f(Kind::Bf16, &[0x80, 0x3f, 0, 0xc0], false), [1.0, -2.0]);
        assert_eq!(f(Kind::I16, &(-7i16).to_be_bytes(), true), [-7.0]);
        assert_eq!(f(Kind::U16, &60000u16.to_le_bytes(), false), [60000.0]);
        assert_eq!(f(Kind::U32, &4_000_000_000u32.to_le_bytes(), false), [4e9]);
        assert_eq!(f(Kind::I8, &[0xff], false), [-1.0]);
        assert_eq!(f(Kind::Bool, &[0, 2], false), [0.0, 1.0]);
        assert!(Kind::U64.decode(vec![0xff; 8], &[1], false).unwrap_err().contains("2^63"));
        assert!(Kind::F32.decode(vec![0; 8], &[3], false).unwrap_err().contains("[3]"));
        assert!(Kind::F32.decode(vec![], &[usize::MAX, 2], false).is_err());
        assert_eq!(Kind::F32.decode(vec![], &[0, 3], false).unwrap().dims(), [0, 3]);
        for (name, word) in
            [("F8_E4M3", "8 bits"), ("complex64", "complex"), ("QInt8Storage", "quantised"), ("Odd", "Odd")]
        {
            let e = Kind::of_torch(name).unwrap_err();
            assert!(e.contains(word) && e.contains(name), "{e}");
        }
    }
}
