//! Where everything is in the file of a group.

/// Bytes of each of a process's two buffers for calls of the whole group. While some still read one, the other is filled.
pub(super) const HALF: usize = 1 << 20;

/// Bytes of the buffer from one process to another.
pub(super) const MAIL: usize = 1 << 16;

// Places in the file: the header, a record of each process, the buffers of each process, the mail of each pair.
pub(super) const HEADER: usize = 4096;
pub(super) const WORLD: usize = 8;
pub(super) const OWNER: usize = 12;
pub(super) const OWNER_BORN: usize = 16;
pub(super) const ARRIVED: usize = 64;
pub(super) const GENERATION: usize = 128;
pub(super) const RECORD: usize = 256;
// Places in a record.
pub(super) const PID: usize = 0;
pub(super) const STATE: usize = 4;
pub(super) const LAST_BEAT: usize = 8;
pub(super) const UNTIL: usize = 16;
pub(super) const REACHED: usize = 24;
pub(super) const WAITS: usize = 28;
pub(super) const CALL: usize = 64;
// Places in a mail.
pub(super) const FULL: usize = 0;
pub(super) const TOTAL: usize = 8;
pub(super) const MAIL_HEADER: usize = 64;

/// Where everything is in the file of a group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    pub(super) world: usize,
}

impl Places {
    pub(super) fn record(self, rank: usize, what: usize) -> usize {
        HEADER + rank * RECORD + what
    }

    /// One of the two places in which a process says what it calls.
    pub(super) fn call(self, rank: usize, number: u32) -> usize {
        self.record(rank, CALL) + (number % 2) as usize * 32
    }

    pub(super) fn half(self, rank: usize, number: usize) -> usize {
        let begin = (HEADER + self.world * RECORD).next_multiple_of(4096);
        begin + (2 * rank + number % 2) * HALF
    }

    pub(super) fn mail(self, from: usize, to: usize) -> usize {
        self.half(self.world, 0) + (from * self.world + to) * (MAIL_HEADER + MAIL)
    }

    pub(super) fn len(self) -> usize {
        self.mail(self.world, 0)
    }
}
