//! Bytes that say where they belong: each is a function of its stream and position, so that any captured
//! part can be checked by itself.

/// A small generator of numbers that look random (splitmix64).
pub struct Numbers(pub u64);

impl Numbers {
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Less than `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.draw() % end
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The bytes of `stream` from `position` on.
pub fn bytes(stream: u64, position: u64, len: usize) -> Vec<u8> {
    let word = |index: u64| mix(index.wrapping_add(stream.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    let skip = (position % 8) as usize;
    let n_words = (skip + len).div_ceil(8);
    let mut bytes = Vec::with_capacity(8 * n_words);
    for at in 0..n_words as u64 {
        bytes.extend_from_slice(&word(position / 8 + at).to_le_bytes());
    }
    bytes.drain(..skip);
    bytes.truncate(len);
    bytes
}

/// A message that can be told from all others wherever it stands in a stream.
pub const MESSAGE_LEN: usize = 1200;

pub fn message(stream: u64, number: u64) -> Vec<u8> {
    let head = [stream.to_le_bytes(), number.to_le_bytes()].concat();
    let rest = bytes(stream, number, MESSAGE_LEN - head.len());
    [head, rest].concat()
}
