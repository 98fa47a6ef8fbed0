//! How deep an encoded parse tree is, before anything recurses into it.

/// Whether messages stand in messages more than `max` times.
///
/// The encoding doesn't tell messages from strings. What could be a message counts as one, so that the
/// depth may be taken for a little more than it is (a name may look like a message), and never for less.
/// Each byte is looked at once.
pub(super) fn exceeds(bytes: &[u8], max: usize) -> bool {
    matches!(depth(bytes, max), Depth::Over)
}

enum Depth {
    /// It is no message.
    None,
    Fine,
    Over,
}

fn depth(bytes: &[u8], left: usize) -> Depth {
    if left == 0 {
        return Depth::Over;
    }
    let mut rest = bytes;
    let mut is_over = false;
    while !rest.is_empty() {
        let Some(tag) = varint(&mut rest) else { return Depth::None };
        let len = match tag & 7 {
            _ if tag >> 3 == 0 => return Depth::None,
            0 => match varint(&mut rest) {
                Some(_) => continue,
                None => return Depth::None,
            },
            1 => 8,
            5 => 4,
            2 => match varint(&mut rest).and_then(|len| usize::try_from(len).ok()) {
                Some(len) => len,
                None => return Depth::None,
            },
            _ => return Depth::None,
        };
        let Some((inside, after)) = rest.split_at_checked(len) else { return Depth::None };
        // Only what is a message to its end counts, so the rest has to be looked at first.
        is_over |=
            tag & 7 == 2 && !inside.is_empty() && matches!(depth(inside, left - 1), Depth::Over);
        rest = after;
    }
    if is_over { Depth::Over } else { Depth::Fine }
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..70).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::exceeds;

    /// `n` messages in each other, each the field 1 of the one around it.
    fn nested(n: usize) -> Vec<u8> {
        (0..n).fold(vec![0x08, 0x01], |inside, _| {
            let mut message = vec![0x0a];
            let mut len = inside.len();
            while len > 0x7f {
                message.push((len & 0x7f) as u8 | 0x80);
                len >>= 7;
            }
            message.push(len as u8);
            message.extend(inside);
            message
        })
    }

    #[test]
    fn depths() {
        assert!(!exceeds(&[], 1));
        assert!(!exceeds(&nested(3), 4));
        assert!(exceeds(&nested(4), 4));
        assert!(exceeds(&nested(100_000), 1000));
        // A string.
        assert!(!exceeds(b"\x0a\x05hello", 1_000));
        assert!(!exceeds(b"\xff\xff\xff", 1));
    }
}
