//! The Internet checksum, and what peers make of it when a packet has an odd number of bytes.

/// Adds up 16-bit words; an odd last byte counts as `last << 8` (RFC 1071). Eight bytes at a time and in the machine's
/// own byte order: folding brings the carries back, and the bytes are put in order at the end (RFC 1071 section 2).
fn sum(bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<8>();
    let halves = |word: u64| (word & 0xffff_ffff) + (word >> 32);
    let mut total: u64 = words.iter().map(|word| halves(u64::from_ne_bytes(*word))).sum();
    let mut last = [0; 8];
    last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    total += halves(u64::from_ne_bytes(last));
    total = (total & 0xffff_ffff) + (total >> 32);
    total = (total & 0xffff) + ((total >> 16) & 0xffff) + (total >> 32);
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    u32::from(u16::from_be(total as u16))
}

/// Ones-complement checksum of `bytes`, whose checksum field must be zero.
pub fn checksum(bytes: &[u8]) -> u16 {
    !(sum(bytes) as u16)
}

/// Whether a packet's checksum holds, its checksum field included.
///
/// FRR before 10.7 and OpenNHRP count an odd last byte as `last` instead of `last << 8`, when they send and when
/// they check: both sums are accepted for an odd length. What we send never depends on it (see
/// [`super::Builder::finish`]).
pub fn checksum_is_valid(bytes: &[u8]) -> bool {
    if sum(bytes) == 0xffff {
        return true;
    }
    let (words, rest) = bytes.as_chunks::<2>();
    let [last] = rest else { return false };
    let mut total = sum(words.as_flattened()) + u32::from(*last);
    if total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total == 0xffff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_summed_up_by_words() {
        let bytes: Vec<u8> = (0..97_u8).map(|n| n.wrapping_mul(151) ^ 0xa5).collect();
        for end in 0..bytes.len() {
            let mut slow: u32 = 0;
            for pair in bytes[..end].chunks(2) {
                slow += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
                slow = (slow & 0xffff) + (slow >> 16);
            }
            assert_eq!(sum(&bytes[..end]), slow, "{end} bytes");
        }
    }

    #[test]
    fn odd_length_both_ways() {
        let body = [0x12, 0x34, 0, 0, 0x56, 0x78, 0x9a];
        let right = checksum(&body);
        let mut packet = body;
        packet[2..4].copy_from_slice(&right.to_be_bytes());
        assert!(checksum_is_valid(&packet));
        let other = checksum(&[0x12, 0x34, 0, 0, 0x56, 0x78, 0, 0x9a]);
        assert_ne!(right, other);
        packet[2..4].copy_from_slice(&other.to_be_bytes());
        assert!(checksum_is_valid(&packet));
        packet[3] ^= 1;
        assert!(!checksum_is_valid(&packet));
    }
}
