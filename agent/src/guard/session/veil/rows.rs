//! Rows of a masked client: described, then changed value by value.

use std::sync::Arc;

use super::super::Broken;
use crate::{
    guard::masking::{Cover, Form, Hiding, Masks, Treatment, Watch},
    protocol::postgres::{backend, reader::Reader},
};

/// What becomes of the columns of the rows to come.
#[derive(Debug, Default)]
pub(super) struct Rows {
    columns: Vec<How>,
    /// Rows are to be changed.
    pub covers: bool,
    /// What is masked, as `schema.table.column:mask`.
    pub masked: Vec<Arc<str>>,
}

#[derive(Debug)]
enum How {
    Passes,
    Covered(Cover),
    /// No label says that it is to be hidden; what is found in it is.
    Watched(Watch),
}

/// Of a column that belongs to something that the catalog doesn't know.
const UNKNOWN: &str = "?:null";

impl Rows {
    /// By the body of a `RowDescription`.
    pub(super) fn describe(
        &mut self,
        body: &[u8],
        masks: &Masks,
        hiding: &Hiding,
        is_utf8: bool,
    ) -> Option<()> {
        self.columns.clear();
        self.masked.clear();
        self.covers = false;
        let mut reader = Reader::new(body);
        for _ in 0..reader.u16()? {
            let _name = reader.cstr()?;
            let (relation, attribute) = (reader.u32()?, reader.i16()?);
            let (kind, _size, modifier) = (reader.u32()?, reader.i16()?, reader.i32()?);
            let form = Form { kind, modifier, format: reader.i16()?, is_utf8 };
            let how = match masks.of_column(relation, attribute) {
                Treatment::Masked(masked) => {
                    self.masked.push(masked.tag());
                    How::Covered(Cover::new(&masked.mask, form))
                }
                Treatment::Unknown => {
                    self.masked.push(UNKNOWN.into());
                    How::Covered(Cover::null())
                }
                Treatment::Passes => match hiding.detectors.watch(form) {
                    Some(watch) => How::Watched(watch),
                    None => How::Passes,
                },
            };
            self.covers |= !matches!(how, How::Passes);
            self.columns.push(how);
        }
        reader.is_empty().then_some(())
    }

    /// Writes the `DataRow` that the client gets for one with this body.
    pub(super) fn put(
        &self,
        body: &[u8],
        hiding: &Hiding,
        out: &mut Vec<u8>,
    ) -> Result<(), Broken> {
        let start = out.len();
        out.extend_from_slice(&[backend::DATA_ROW, 0, 0, 0, 0]);
        self.put_body(body, hiding, out).ok_or(Broken::Server)?;
        let len = u32::try_from(out.len() - start - 1).map_err(|_| Broken::Server)?;
        if let Some(place) = out.get_mut(start + 1..start + 5) {
            place.copy_from_slice(&len.to_be_bytes());
        }
        Ok(())
    }

    fn put_body(&self, body: &[u8], hiding: &Hiding, out: &mut Vec<u8>) -> Option<()> {
        let mut reader = Reader::new(body);
        if usize::from(reader.u16()?) != self.columns.len() {
            return None;
        }
        // Where what hasn't been copied begins.
        let mut from = 0;
        let at = |reader: &Reader<'_>| body.len() - reader.rest().len();
        for how in &self.columns {
            let start = at(&reader);
            let len = match reader.i32()? {
                -1 => continue,
                len => usize::try_from(len).ok()?,
            };
            let value = reader.take(len)?;
            if matches!(how, How::Passes) {
                continue;
            }
            out.extend_from_slice(body.get(from..start)?);
            put_value(out, |out| match how {
                How::Covered(cover) => cover.put(value, &hiding.pseudonyms, out),
                How::Watched(watch) => {
                    hiding.detectors.put(*watch, value, out);
                    true
                }
                How::Passes => false,
            })?;
            from = at(&reader);
        }
        out.extend_from_slice(body.get(from..)?);
        reader.is_empty().then_some(())
    }
}

/// A value behind its length, or NULL where `put` writes none.
pub(super) fn put_value(out: &mut Vec<u8>, put: impl FnOnce(&mut Vec<u8>) -> bool) -> Option<()> {
    let start = out.len();
    out.extend_from_slice(&(-1_i32).to_be_bytes());
    if put(out) {
        let len = i32::try_from(out.len() - start - 4).ok()?;
        out.get_mut(start..start + 4)?.copy_from_slice(&len.to_be_bytes());
    }
    Some(())
}
