//! Body compression. Output is bounded and memory grows with what really comes out, never with what a header claims.

use crate::error::WireError;
use crate::frame::Compressor;
use crate::lz4;
use flate2::bufread::{GzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};
use std::io::{Read, Write};
use zstd::zstd_safe::{CCtx, DCtx, compress_bound, get_frame_content_size};

/// `ZSTD_error_dstSize_tooSmall`; zstd promises that its error numbers stay (`zstd_errors.h`).
const ZSTD_DST_SIZE_TOO_SMALL: usize = 70_usize.wrapping_neg();
/// The first buffer for a zstd body; it grows fourfold until the body fits or the limit is met.
const ZSTD_FIRST_BUFFER_BYTES: usize = 4 << 10;
const ZSTD_LEVEL: i32 = 3;

/// Inflates one body after another; keeps what zstd can reuse between them.
#[derive(Default)]
pub(crate) struct Decompress {
    zstd: Option<DCtx<'static>>,
}

impl Decompress {
    /// # Errors
    /// When the body is damaged, has bytes behind its end, or inflates to more than `max_bytes`.
    pub(crate) fn run(&mut self, compressor: Compressor, body: &[u8], max_bytes: usize) -> Result<Vec<u8>, WireError> {
        match compressor {
            Compressor::None => Ok(body.to_vec()),
            Compressor::Gzip => inflate(
                compressor,
                GzDecoder::new(body),
                body.len(),
                max_bytes,
                GzDecoder::into_inner,
            ),
            Compressor::Lz4(format) => lz4::decompress(format, body, max_bytes),
            Compressor::Deflater => inflate(
                compressor,
                ZlibDecoder::new(body),
                body.len(),
                max_bytes,
                ZlibDecoder::into_inner,
            ),
            Compressor::Zstd => self.unzstd(body, max_bytes),
        }
    }

    fn unzstd(&mut self, body: &[u8], max_bytes: usize) -> Result<Vec<u8>, WireError> {
        let compressor = Compressor::Zstd;
        let too_long = WireError::DecompressedTooLong {
            compressor,
            max: max_bytes,
        };
        // An honest header spares the work; a lying one is caught below.
        if let Ok(Some(claimed)) = get_frame_content_size(body)
            && claimed > max_bytes as u64
        {
            return Err(too_long);
        }
        let context = self.zstd.get_or_insert_with(DCtx::create);
        let mut capacity = ZSTD_FIRST_BUFFER_BYTES.max(body.len()).min(max_bytes);
        loop {
            // One pass into a flat buffer: unlike streaming, it allocates no window of the size the header asks for.
            let mut out = Vec::with_capacity(capacity);
            match context.decompress(&mut out, body) {
                Ok(_) if out.len() <= max_bytes => return Ok(out),
                Ok(_) => return Err(too_long),
                Err(ZSTD_DST_SIZE_TOO_SMALL) if capacity < max_bytes => capacity = (capacity * 4).min(max_bytes),
                Err(ZSTD_DST_SIZE_TOO_SMALL) => return Err(too_long),
                Err(_) => {
                    let problem = "damaged, or not a zstd frame";
                    return Err(WireError::Decompress {
                        compressor,
                        bytes: body.len(),
                        problem,
                    });
                }
            }
        }
    }
}

/// Reads a stream of DEFLATE in whatever shell, which must fill the body exactly.
fn inflate<'a, D: Read>(
    compressor: Compressor,
    mut decoder: D,
    bytes: usize,
    max_bytes: usize,
    rest: impl FnOnce(D) -> &'a [u8],
) -> Result<Vec<u8>, WireError> {
    let damaged = |problem| WireError::Decompress {
        compressor,
        bytes,
        problem,
    };
    let mut out = Vec::new();
    let limit = u64::try_from(max_bytes).map_or(u64::MAX, |max| max.saturating_add(1));
    decoder
        .by_ref()
        .take(limit)
        .read_to_end(&mut out)
        .map_err(|_| damaged("damaged, or no stream of this compressor"))?;
    if out.len() > max_bytes {
        return Err(WireError::DecompressedTooLong {
            compressor,
            max: max_bytes,
        });
    }
    if !rest(decoder).is_empty() {
        return Err(damaged("bytes follow the end of the stream"));
    }
    Ok(out)
}

/// Compresses one body. The zstd frame carries its content size: Java 1.x allocates by it and fails without.
pub(crate) fn compress(compressor: Compressor, body: &[u8]) -> Result<Vec<u8>, WireError> {
    let failed = || WireError::Compress {
        compressor,
        bytes: body.len(),
    };
    match compressor {
        Compressor::None => Ok(body.to_vec()),
        Compressor::Gzip => {
            let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(body).map_err(|_| failed())?;
            encoder.finish().map_err(|_| failed())
        }
        Compressor::Lz4(format) => Ok(lz4::compress(format, body)),
        Compressor::Deflater => {
            let mut encoder = ZlibEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(body).map_err(|_| failed())?;
            encoder.finish().map_err(|_| failed())
        }
        Compressor::Zstd => {
            let mut out = Vec::with_capacity(compress_bound(body.len()));
            CCtx::create()
                .compress(&mut out, body, ZSTD_LEVEL)
                .map_err(|_| failed())?;
            Ok(out)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Lz4Format;

    const MAX: usize = 1 << 20;
    const ALL: [Compressor; 5] = [
        Compressor::Gzip,
        Compressor::Lz4(Lz4Format::Block),
        Compressor::Lz4(Lz4Format::Frame),
        Compressor::Deflater,
        Compressor::Zstd,
    ];

    fn run(compressor: Compressor, body: &[u8], max: usize) -> Result<Vec<u8>, WireError> {
        Decompress::default().run(compressor, body, max)
    }

    #[test]
    fn a_body_of_exactly_the_limit_passes_and_one_byte_more_is_refused() {
        for compressor in ALL {
            for fill in [0u8, 1] {
                // All zeros compress to almost nothing; the other body hardly compresses, so both buffer paths run.
                let mut noise = 1u32;
                let body: Vec<u8> = std::iter::repeat_with(|| {
                    noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    fill * (noise >> 24) as u8
                })
                .take(MAX)
                .collect();
                let packed = compress(compressor, &body).unwrap();
                assert_eq!(run(compressor, &packed, MAX).unwrap(), body);
                assert_eq!(
                    run(compressor, &packed, MAX - 1),
                    Err(WireError::DecompressedTooLong {
                        compressor,
                        max: MAX - 1
                    })
                );
            }
        }
    }

    #[test]
    fn a_zstd_bomb_without_a_content_size_is_refused() {
        let mut packed = Vec::new();
        let mut encoder = zstd::stream::write::Encoder::new(&mut packed, 1).unwrap();
        encoder.write_all(&vec![0; 4 * MAX]).unwrap();
        encoder.finish().unwrap();
        assert_eq!(get_frame_content_size(&packed).ok().flatten(), None);
        assert!(packed.len() < 2000);
        assert_eq!(
            run(Compressor::Zstd, &packed, MAX),
            Err(WireError::DecompressedTooLong {
                compressor: Compressor::Zstd,
                max: MAX
            })
        );
        assert_eq!(run(Compressor::Zstd, &packed, 4 * MAX).unwrap().len(), 4 * MAX);
    }

    #[test]
    fn a_gzip_bomb_is_left_before_its_end() {
        let mut packed = compress(Compressor::Gzip, &vec![0; 4 * MAX]).unwrap();
        // Whoever inflates all of it meets the broken length at the end and tells of that instead.
        *packed.last_mut().unwrap() ^= 1;
        assert_eq!(
            run(Compressor::Gzip, &packed, MAX),
            Err(WireError::DecompressedTooLong {
                compressor: Compressor::Gzip,
                max: MAX
            })
        );
        assert!(matches!(
            run(Compressor::Gzip, &packed, 4 * MAX),
            Err(WireError::Decompress { .. })
        ));
    }

    #[test]
    fn our_zstd_frames_carry_their_content_size() {
        let packed = compress(Compressor::Zstd, b"hello").unwrap();
        assert_eq!(get_frame_content_size(&packed).unwrap(), Some(5));
    }

    #[test]
    fn a_cut_or_extended_body_is_refused() {
        for compressor in ALL {
            let packed = compress(compressor, b"some body, some body, some body").unwrap();
            for end in 0..packed.len() {
                // zstd takes no bytes at all for an empty sequence of frames, and gives an empty body.
                let cut = run(compressor, &packed[..end], MAX);
                assert!(
                    cut.is_err() || (end == 0 && cut == Ok(Vec::new())),
                    "{compressor:?} cut at {end}: {cut:?}"
                );
            }
            let mut extended = packed.clone();
            extended.push(7);
            assert!(matches!(
                run(compressor, &extended, MAX),
                Err(WireError::Decompress { .. })
            ));
        }
    }
}
