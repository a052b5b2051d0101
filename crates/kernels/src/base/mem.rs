//! Memory: buffers without a zeroing pass, and an allocator that keeps what it has.

/// A buffer of `n` floats with unspecified contents, for kernels that write every element.
///
/// Zeroing costs a pass over memory that training steps pay hundreds of times. The contents are arbitrary but fixed
/// (old heap bytes), never a reason for undefined behaviour: see the safety note inside.
pub fn buffer(n: usize) -> Vec<f32> {
    if cfg!(miri) || cfg!(not(any(target_arch = "x86_64", target_arch = "aarch64"))) {
        return vec![0.0; n];
    }
    let mut v: Vec<f32> = Vec::with_capacity(n);
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    // SAFETY: the capacity is `n`. The empty assembly block receives the pointer and may, as far as the compiler knows,
    // have written every byte behind it; from there on the contents are some fixed bytes, and any bytes are a valid f32.
    unsafe {
        std::arch::asm!("/* {0} */", in(reg) v.as_mut_ptr(), options(nostack, preserves_flags));
        v.set_len(n);
    }
    huge_pages(&v);
    v
}

/// Asks for 2 MiB pages under a large buffer: its first touch costs far fewer page faults, and products that stride
/// through it fewer address translations. Advice only: refusal changes nothing.
fn huge_pages(v: &[f32]) {
    #[cfg(target_os = "linux")]
    {
        const PAGE: usize = 2 << 20;
        let (start, end) = (v.as_ptr() as usize, v.as_ptr() as usize + size_of_val(v));
        let (first, last) = (start.next_multiple_of(PAGE), end / PAGE * PAGE);
        if last > first {
            // SAFETY: the range lies inside a live allocation, and the advice changes no contents.
            unsafe {
                libc::madvise(first as *mut libc::c_void, last - first, libc::MADV_HUGEPAGE);
            }
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = v;
}

/// Tells the C library's allocator to keep large freed blocks in the process. Call once, first thing in a program.
///
/// A training step frees and allocates the same gigabytes again and again; handing them back to the system makes page
/// faults a third of the step. Does nothing where the allocator is not glibc's.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt only sets parameters of the allocator.
    unsafe {
        // No block is mapped apart (thresholds above 32 MiB are refused, so mapping is turned off instead), and -1 means
        // that freed memory at the end of the heap is never trimmed.
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, -1);
        libc::mallopt(libc::M_TOP_PAD, 64 << 20);
    }
}

thread_local! {
    static SCRATCH: std::cell::RefCell<Vec<Vec<f32>>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Runs `f` with a scratch buffer of `n` floats (unspecified contents) that the thread keeps for its next use.
pub(crate) fn scratch<R>(n: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut v = SCRATCH.with_borrow_mut(Vec::pop).unwrap_or_default();
    if v.len() < n {
        v = buffer(n);
    }
    let r = f(&mut v[..n]);
    SCRATCH.with_borrow_mut(|pool| pool.push(v));
    r
}

#[cfg(test)]
mod tests {
    #[test]
    fn scratch_nests_and_is_kept() {
        let outer = super::scratch(100, |a| {
            a.fill(1.0);
            super::scratch(100, |b| b.fill(2.0));
            a.iter().sum::<f32>()
        });
        assert_eq!(outer, 100.0);
        assert_eq!(super::buffer(7).len(), 7);
    }
}
