//! Tables of a flatbuffer (google/flatbuffers, `docs/source/internals.md`), every offset checked: a table starts with the way back
//! to its list of fields; that list has its own length, the table's length, and for each field its place in the table or 0.

use snapc_ir::{Error, Result};

/// A table whose list of fields lies in the file and names no field but the known ones.
#[derive(Clone, Copy)]
pub struct Table<'a> {
    bytes: &'a [u8],
    at: usize,
    fields: usize,
    /// Bytes of the list of fields, and of the table.
    lengths: [usize; 2],
    name: &'static str,
}

/// A vector: where its first entry is, and how many there are.
struct Entries {
    at: usize,
    count: usize,
}

impl<'a> Table<'a> {
    /// The root, behind whose offset the identifier stands.
    pub fn root(bytes: &'a [u8], name: &'static str, identifier: &str, known: &[u16]) -> Result<Self> {
        let found = bytes.get(4..8);
        if found != Some(identifier.as_bytes()) {
            return Err(Error::input(format!("the file is no flatbuffer of kind {identifier}")));
        }
        Table::new(bytes, number::<u32, 4>(bytes, 0, u32::from_le_bytes)? as usize, name, known)
    }

    fn new(bytes: &'a [u8], at: usize, name: &'static str, known: &[u16]) -> Result<Self> {
        let back = i64::from(number::<i32, 4>(bytes, at, i32::from_le_bytes)?);
        let fields = usize::try_from(at as i64 - back).map_err(|_| damaged(name))?;
        let length = |at: usize| number::<u16, 2>(bytes, at, u16::from_le_bytes).map(usize::from);
        let lengths = [length(fields)?, length(fields + 2)?];
        let inside = fields + lengths[0] <= bytes.len() && at + lengths[1] <= bytes.len();
        if !inside || lengths[0] < 4 || lengths[0] % 2 != 0 || lengths[1] < 4 {
            return Err(damaged(name));
        }
        let table = Table { bytes, at, fields, lengths, name };
        for slot in 0..(lengths[0] as u16 - 4) / 2 {
            if !known.contains(&slot) && table.place(slot)? != 0 {
                return Err(Error::input(format!("{name} has field {slot}, which snapc does not write")));
            }
        }
        Ok(table)
    }

    /// The place of a field in the table; 0 where it is not given.
    fn place(&self, slot: u16) -> Result<usize> {
        let at = 4 + 2 * usize::from(slot);
        if at + 2 > self.lengths[0] {
            return Ok(0);
        }
        number::<u16, 2>(self.bytes, self.fields + at, u16::from_le_bytes).map(usize::from)
    }

    /// Whether a field is given.
    pub fn has(&self, slot: u16) -> Result<bool> {
        self.place(slot).map(|place| place != 0)
    }

    fn scalar<T, const N: usize>(&self, slot: u16, of: fn([u8; N]) -> T) -> Result<Option<T>> {
        let place = self.place(slot)?;
        if place == 0 {
            return Ok(None);
        }
        if place < 4 || place + N > self.lengths[1] {
            return Err(damaged(self.name));
        }
        number(self.bytes, self.at + place, of).map(Some)
    }

    /// A field; zero where it is not given. Where the schema's default is another number, snapc always writes the field.
    pub fn u8(&self, slot: u16) -> Result<u8> {
        Ok(self.scalar(slot, u8::from_le_bytes)?.unwrap_or_default())
    }

    pub fn i8(&self, slot: u16) -> Result<i8> {
        Ok(self.scalar(slot, i8::from_le_bytes)?.unwrap_or_default())
    }

    pub fn u32(&self, slot: u16) -> Result<u32> {
        Ok(self.scalar(slot, u32::from_le_bytes)?.unwrap_or_default())
    }

    pub fn i32(&self, slot: u16) -> Result<i32> {
        Ok(self.scalar(slot, i32::from_le_bytes)?.unwrap_or_default())
    }

    pub fn u64(&self, slot: u16) -> Result<u64> {
        Ok(self.scalar(slot, u64::from_le_bytes)?.unwrap_or_default())
    }

    pub fn f32(&self, slot: u16) -> Result<f32> {
        Ok(self.scalar(slot, f32::from_le_bytes)?.unwrap_or_default())
    }

    pub fn bool(&self, slot: u16) -> Result<bool> {
        match self.u8(slot)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(Error::input(format!("{} has {other} where 0 or 1 stands", self.name))),
        }
    }

    /// Where an offset leads.
    fn target(&self, slot: u16) -> Result<Option<usize>> {
        let Some(offset) = self.scalar(slot, u32::from_le_bytes)? else { return Ok(None) };
        Ok(Some(self.at + self.place(slot)? + offset as usize))
    }

    fn entries(&self, slot: u16, size: usize) -> Result<Option<Entries>> {
        let Some(at) = self.target(slot)? else { return Ok(None) };
        let count = number::<u32, 4>(self.bytes, at, u32::from_le_bytes)? as usize;
        let at = at + 4;
        if count > self.bytes.len().saturating_sub(at) / size {
            return Err(damaged(self.name));
        }
        Ok(Some(Entries { at, count }))
    }

    /// The bytes of a vector of bytes; `None` where it is not given.
    pub fn data(&self, slot: u16) -> Result<Option<&'a [u8]>> {
        let Some(Entries { at, count }) = self.entries(slot, 1)? else { return Ok(None) };
        self.bytes.get(at..at + count).map(Some).ok_or_else(|| damaged(self.name))
    }

    /// A text; the empty one where it is not given.
    pub fn text(&self, slot: u16) -> Result<&'a str> {
        let bytes = self.data(slot)?.unwrap_or_default();
        std::str::from_utf8(bytes).map_err(|_| Error::input(format!("{} has no text as its name", self.name)))
    }

    /// A vector of at most `most` integers.
    pub fn ints(&self, slot: u16, most: usize) -> Result<Vec<i32>> {
        self.numbers(slot, most, i32::from_le_bytes)
    }

    /// A vector of at most `most` numbers.
    pub fn floats(&self, slot: u16, most: usize) -> Result<Vec<f32>> {
        self.numbers(slot, most, f32::from_le_bytes)
    }

    /// A vector of at most `most` wide integers.
    pub fn longs(&self, slot: u16, most: usize) -> Result<Vec<i64>> {
        self.numbers(slot, most, i64::from_le_bytes)
    }

    fn numbers<T, const N: usize>(&self, slot: u16, most: usize, of: fn([u8; N]) -> T) -> Result<Vec<T>> {
        let Some(Entries { at, count }) = self.entries(slot, N)? else { return Ok(Vec::new()) };
        if count > most {
            return Err(Error::input(format!("{} has a list of {count} numbers", self.name)));
        }
        (0..count).map(|index| number(self.bytes, at + N * index, of)).collect()
    }

    /// A table.
    pub fn table(&self, slot: u16, name: &'static str, known: &[u16]) -> Result<Option<Table<'a>>> {
        let Some(at) = self.target(slot)? else { return Ok(None) };
        Table::new(self.bytes, at, name, known).map(Some)
    }

    /// A vector of tables.
    pub fn tables(&self, slot: u16, name: &'static str, known: &[u16]) -> Result<Vec<Table<'a>>> {
        let Some(Entries { at, count }) = self.entries(slot, 4)? else { return Ok(Vec::new()) };
        (0..count)
            .map(|index| {
                let at = at + 4 * index;
                let offset = number::<u32, 4>(self.bytes, at, u32::from_le_bytes)? as usize;
                Table::new(self.bytes, at + offset, name, known)
            })
            .collect()
    }
}

fn number<T, const N: usize>(bytes: &[u8], at: usize, of: fn([u8; N]) -> T) -> Result<T> {
    let end = at.checked_add(N);
    let found = end.and_then(|end| bytes.get(at..end)).and_then(|bytes| bytes.try_into().ok());
    found.map(of).ok_or_else(|| Error::input(format!("an offset leads to byte {at}, behind the flatbuffer")))
}

fn damaged(name: &str) -> Error {
    Error::input(format!("the flatbuffer is damaged: a {name} does not lie within it"))
}
