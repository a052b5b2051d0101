//! Signs of life of processes, and what waits for them.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Milliseconds of a clock that all processes of a machine share and nobody sets.
#[cfg(unix)]
pub(super) fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a place for the result.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000
}

/// Milliseconds since 1970.
#[cfg(not(unix))]
pub(super) fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| d.as_millis() as u64)
}

/// Whether a process has ended, as far as the system says; one that nobody has asked for its status has ended, too.
pub(super) fn ended(pid: u32) -> bool {
    #[cfg(unix)]
    {
        let Ok(id) = libc::pid_t::try_from(pid) else { return true };
        // SAFETY: signal 0 is not sent; the call only asks.
        let gone =
            unsafe { libc::kill(id, 0) } != 0 && std::io::Error::last_os_error().raw_os_error() == Some(libc::ESRCH);
        gone || zombie(pid)
    }
    #[cfg(not(unix))]
    {
        let _ = pid;
        false
    }
}

/// When a process began, in a unit of the system; 0 where that is not known.
pub(super) fn born(pid: u32) -> u64 {
    let field = |text: String| text.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok();
    std::fs::read_to_string(format!("/proc/{pid}/stat")).ok().and_then(field).unwrap_or(0)
}

#[cfg(unix)]
fn zombie(pid: u32) -> bool {
    // The name in parentheses may hold anything.
    let state = |text: String| Some(text.rsplit_once(')')?.1.trim_start().starts_with(['Z', 'X']));
    std::fs::read_to_string(format!("/proc/{pid}/stat")).ok().and_then(state).unwrap_or(false)
}

/// Waits until a word has another value than `value`, or for a short time.
pub(super) fn doze(word: &AtomicU32, value: u32, time: Duration) {
    #[cfg(target_os = "linux")]
    {
        let time = libc::timespec {
            tv_sec: time.as_secs() as libc::time_t,
            tv_nsec: libc::c_long::from(time.subsec_nanos() as i32),
        };
        // SAFETY: the word lives in mapped memory while it is borrowed; the kernel only reads it.
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, value, &raw const time) };
    }
    #[cfg(not(target_os = "linux"))]
    if word.load(Ordering::Acquire) == value {
        std::thread::sleep(time.min(Duration::from_micros(200)));
    }
}

/// Wakes all who wait for a word.
pub(super) fn wake(word: &AtomicU32) {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: the word lives in mapped memory while it is borrowed; the kernel only uses its address.
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = word;
}

/// Looks at a word a few times before it is worth sleeping.
pub(super) fn spin(word: &AtomicU32, done: impl Fn(u32) -> bool) -> bool {
    for _ in 0..100 {
        if done(word.load(Ordering::Acquire)) {
            return true;
        }
        std::hint::spin_loop();
    }
    false
}
