//! Views of matrices that products read and write, and how products multiply.

use crate::error::{Error, Result};
use std::marker::PhantomData;

/// How products multiply. Inputs, outputs and sums are f32 either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// Multiplication in f32.
    #[default]
    F32,
    /// Multiplication of operands that are rounded to bf16 (to nearest, ties to even) while they are packed.
    Bf16,
    /// Multiplication of operands that are rounded to TF32 on a GPU's tensor cores; elsewhere the same as f32.
    Tf32,
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
            Precision::Tf32 => "tf32",
        })
    }
}

impl std::str::FromStr for Precision {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        match s {
            "f32" => Ok(Precision::F32),
            "bf16" => Ok(Precision::Bf16),
            "tf32" => Ok(Precision::Tf32),
            _ => Err(Error::Value { op: "precision", message: format!("`{s}` is not one of f32, bf16, tf32") }),
        }
    }
}

/// A strided matrix to read.
#[derive(Clone, Copy, Debug)]
pub struct MatRef<'a> {
    pub(crate) ptr: *const f32,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) rs: usize,
    pub(crate) cs: usize,
    life: PhantomData<&'a [f32]>,
}
// SAFETY: a MatRef is a shared borrow of a slice of f32.
unsafe impl Send for MatRef<'_> {}
// SAFETY: as above.
unsafe impl Sync for MatRef<'_> {}

/// Elements a view reaches to; a view too large to address reaches past every slice.
fn last_index(rows: usize, cols: usize, rs: usize, cs: usize) -> usize {
    if rows == 0 || cols == 0 {
        return 0;
    }
    let reach =
        (rows - 1).checked_mul(rs).zip((cols - 1).checked_mul(cs)).and_then(|(a, b)| a.checked_add(b)?.checked_add(1));
    reach.unwrap_or(usize::MAX)
}

impl<'a> MatRef<'a> {
    /// A `rows x cols` view: element (i, j) is `data[i * rs + j * cs]`.
    ///
    /// # Errors
    /// When the view reaches past the slice.
    pub fn new(data: &'a [f32], rows: usize, cols: usize, rs: usize, cs: usize) -> Result<Self> {
        let need = last_index(rows, cols, rs, cs);
        if need > data.len() {
            return Err(Error::Len { op: "matrix view", what: "data", expected: need, found: data.len() });
        }
        Ok(MatRef { ptr: data.as_ptr(), rows, cols, rs, cs, life: PhantomData })
    }

    /// A dense row-major matrix.
    ///
    /// # Errors
    /// When the slice is too short.
    pub fn row_major(data: &'a [f32], rows: usize, cols: usize) -> Result<Self> {
        Self::new(data, rows, cols, cols, 1)
    }

    /// Rows `r0 .. r0 + n`.
    ///
    /// # Safety
    /// They must be rows of this view.
    pub(crate) unsafe fn some_rows(self, r0: usize, n: usize) -> Self {
        // SAFETY: the caller's promise.
        MatRef { ptr: unsafe { self.ptr.add(r0 * self.rs) }, rows: n, ..self }
    }

    /// The transpose, without a copy.
    pub fn t(self) -> Self {
        MatRef { rows: self.cols, cols: self.rows, rs: self.cs, cs: self.rs, ..self }
    }
}

/// A matrix to write: unit stride within a row, any stride between rows.
#[derive(Debug)]
pub struct MatMut<'a> {
    pub(crate) ptr: *mut f32,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) rs: usize,
    life: PhantomData<&'a mut [f32]>,
}

impl<'a> MatMut<'a> {
    /// A `rows x cols` view whose rows start `rs` elements apart.
    ///
    /// # Errors
    /// When the view reaches past the slice or rows overlap.
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize, rs: usize) -> Result<Self> {
        let need = last_index(rows, cols, rs, 1);
        if need > data.len() || (rows > 1 && rs < cols) {
            return Err(Error::Len { op: "matrix view", what: "data", expected: need, found: data.len() });
        }
        Ok(MatMut { ptr: data.as_mut_ptr(), rows, cols, rs, life: PhantomData })
    }

    /// A dense row-major matrix.
    ///
    /// # Errors
    /// When the slice is too short.
    pub fn row_major(data: &'a mut [f32], rows: usize, cols: usize) -> Result<Self> {
        Self::new(data, rows, cols, cols)
    }

    /// # Safety
    /// The elements of the view must be valid for writes and touched by nobody else for `'a`.
    pub(crate) unsafe fn from_raw(ptr: *mut f32, rows: usize, cols: usize, rs: usize) -> Self {
        MatMut { ptr, rows, cols, rs, life: PhantomData }
    }
}

/// What a product does with finished parts of its result, while they are in cache: `(row, first column, values)`.
pub(crate) type Epilogue<'a> = &'a (dyn Fn(usize, usize, &mut [f32]) + Sync);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_that_reach_past_their_slice_are_refused() {
        let (x, mut c) = ([0.0; 4], [0.0; 4]);
        assert!(MatRef::row_major(&x, 3, 2).is_err());
        assert!(MatRef::new(&x, 2, 1, usize::MAX, 1).is_err() && MatMut::new(&mut c, 2, 1, usize::MAX).is_err());
    }
}
