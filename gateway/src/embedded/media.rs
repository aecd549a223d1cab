//! The tiny image and sound that tools, prompts and resources hand out.

use super::answers::{put, put_base64};

/// A PNG of one red pixel (8-bit RGB, one stored deflate block).
pub(super) const RED_PIXEL_PNG: &[u8] = &RED_PIXEL;

/// A WAV of eight silent samples: 8 kHz, mono, 8 bits.
pub(super) const SILENCE_WAV: &[u8] = &SILENCE;

/// Appends an `Icon` object that carries the pixel in its address.
pub(super) fn put_icon(out: &mut Vec<u8>) {
    put(out, r#"{"src":"data:image/png;base64,"#);
    put_base64(out, RED_PIXEL_PNG);
    put(out, r#"","mimeType":"image/png","sizes":["1x1"]}"#);
}

#[rustfmt::skip]
const RED_PIXEL: [u8; 72] = [
    0x89, 0x50, 0x4E, 0x47, 0x0D, 0x0A, 0x1A, 0x0A, 0x00, 0x00, 0x00, 0x0D,
    0x49, 0x48, 0x44, 0x52, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x01,
    0x08, 0x02, 0x00, 0x00, 0x00, 0x90, 0x77, 0x53, 0xDE, 0x00, 0x00, 0x00,
    0x0F, 0x49, 0x44, 0x41, 0x54, 0x78, 0x01, 0x01, 0x04, 0x00, 0xFB, 0xFF,
    0x00, 0xFF, 0x00, 0x00, 0x03, 0x01, 0x01, 0x00, 0x8D, 0x1D, 0xE5, 0x82,
    0x00, 0x00, 0x00, 0x00, 0x49, 0x45, 0x4E, 0x44, 0xAE, 0x42, 0x60, 0x82,
];

#[rustfmt::skip]
const SILENCE: [u8; 52] = [
    b'R', b'I', b'F', b'F', 44, 0, 0, 0, b'W', b'A', b'V', b'E',
    b'f', b'm', b't', b' ', 16, 0, 0, 0,
    // PCM, one channel, 8,000 samples and 8,000 bytes a second, one byte a frame, 8 bits.
    1, 0, 1, 0, 0x40, 0x1F, 0, 0, 0x40, 0x1F, 0, 0, 1, 0, 8, 0,
    b'd', b'a', b't', b'a', 8, 0, 0, 0,
    // Unsigned samples: silence is the middle.
    128, 128, 128, 128, 128, 128, 128, 128,
];

#[cfg(test)]
mod tests {
    use super::*;

    /// CRC-32 as PNG uses it, bit by bit.
    fn crc(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0, |crc: u32, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 }
            })
        })
    }

    #[test]
    fn every_chunk_of_the_png_has_its_checksum() {
        let mut rest = RED_PIXEL_PNG.strip_prefix(b"\x89PNG\r\n\x1a\n").expect("signature");
        let mut kinds = Vec::new();
        while !rest.is_empty() {
            let length = u32::from_be_bytes(rest[..4].try_into().expect("four bytes")) as usize;
            let (chunk, tail) = rest[4..].split_at(4 + length);
            kinds.push(chunk[..4].to_vec());
            assert_eq!(crc(chunk).to_be_bytes(), tail[..4]);
            rest = &tail[4..];
        }
        assert_eq!(kinds, [b"IHDR", b"IDAT", b"IEND"]);
    }

    #[test]
    fn the_wav_tells_its_own_length() {
        let told = u32::from_le_bytes(SILENCE_WAV[4..8].try_into().expect("four bytes"));
        assert_eq!(told as usize, SILENCE_WAV.len() - 8);
    }
}
