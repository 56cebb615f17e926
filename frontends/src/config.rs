//! Reading the JSON files of a pipeline folder.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use snapc_ir::{Error, Place, Result};

/// The largest size that a config may name: beyond it a product of sizes could overflow.
pub const LARGEST_SIZE: usize = 1 << 20;

/// Reads a JSON file that holds an object.
///
/// # Errors
/// If it is missing, or no JSON object.
pub fn read_object(path: &Path) -> Result<Map<String, Value>> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Error::io("read", path, &error).help("a pipeline folder is what diffusers' save_pretrained writes")
    })?;
    serde_json::from_str(&text).map_err(|error| {
        Error::input(format!("this is no JSON object: {error}"))
            .at(Place::File(path.to_path_buf()))
            .help("download or export the file again")
    })
}

/// Reads the fields of a config into a struct.
///
/// # Errors
/// If a field is missing or of another type.
pub fn fields<T: DeserializeOwned>(object: &Map<String, Value>) -> Result<T> {
    serde_json::from_value(Value::Object(object.clone())).map_err(|error| {
        Error::input(format!("the config is not what its class has: {error}"))
            .help("was it written by the version of the library that its class is from?")
    })
}

/// The text of a field, where it is one.
pub fn text<'a>(object: &'a Map<String, Value>, field: &str) -> Option<&'a str> {
    object.get(field).and_then(Value::as_str)
}

/// Fails unless `value` is within 1 and [`LARGEST_SIZE`].
///
/// # Errors
/// Names the field.
pub fn check_size(field: &str, value: usize) -> Result<()> {
    if (1..=LARGEST_SIZE).contains(&value) {
        return Ok(());
    }
    Err(Error::input(format!("`{field}` is {value}, expected 1 to {LARGEST_SIZE}")))
}

/// Fails unless `value` is a multiple of `unit`, which `why` explains.
///
/// # Errors
/// Names the field.
pub fn check_multiple(field: &str, value: usize, unit: usize, why: &str) -> Result<()> {
    if value.is_multiple_of(unit) {
        return Ok(());
    }
    Err(Error::input(format!("`{field}` is {value}, expected a multiple of {unit} ({why})")))
}

/// Fails unless a positive, finite number.
///
/// # Errors
/// Names the field.
pub fn check_positive(field: &str, value: f64) -> Result<()> {
    if value.is_finite() && value > 0.0 {
        return Ok(());
    }
    Err(Error::input(format!("`{field}` is {value}, expected a positive number")))
}
