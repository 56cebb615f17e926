use snapc_ir::{Error, Result};
use snapc_weights::Tensor;

/// How many times a difference is shown.
pub const TIMES: f32 = 8.0;

/// One prompt's pictures.
pub struct Strip {
    /// The prompt.
    pub prompt: String,
    /// The PSNR, in dB.
    pub psnr: f64,
    /// `[1, 3, H, W]` in f32.
    pub expected: Tensor,
    /// As it was written.
    pub found: Tensor,
}

/// A strip a row: f32, as written, and 8 times the difference around grey; as a PNG.
///
/// # Errors
/// If the pictures have another form.
pub fn png(strips: &[Strip]) -> Result<Vec<u8>> {
    let Some(&[1, 3, rows, cols]) = strips.first().map(|strip| &strip.expected.ty.shape[..]) else {
        return Err(Error::bug("a strip of no pictures"));
    };
    let places = rows * cols;
    let byte = |value: f32| ((value.clamp(-1.0, 1.0) + 1.0) * 127.5).round_ties_even() as u8;
    let mut pixels = Vec::with_capacity(strips.len() * places * 9);
    for Strip { expected, found, .. } in strips {
        let (expected, found) = (expected.values(), found.values());
        let clamped = |values: &[f32], at: usize| values[at].clamp(-1.0, 1.0);
        let shown: [&dyn Fn(usize) -> f32; 3] =
            [&|at| expected[at], &|at| found[at], &|at| TIMES * (clamped(found, at) - clamped(expected, at))];
        for row in 0..rows {
            for of in shown {
                let places_of_row = row * cols..(row + 1) * cols;
                pixels.extend(
                    places_of_row
                        .flat_map(|place| (0..3).map(move |colour| colour * places + place))
                        .map(|at| byte(of(at))),
                );
            }
        }
    }
    encode(&pixels, 3 * cols, rows * strips.len())
}

/// RGB pixels as a PNG.
///
/// # Errors
/// If they cannot be encoded.
pub fn encode(pixels: &[u8], cols: usize, rows: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, cols as u32, rows as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder
        .write_header()
        .and_then(|mut writer| writer.write_image_data(pixels))
        .map_err(|error| Error::bug(format!("the picture cannot be encoded: {error}")))?;
    Ok(bytes)
}
