//! Histograms from files, and how they are shown: `corelog hist`, and the end of a run.
//!
//! | Module | Owns |
//! |---|---|
//! | [`read`] | what files there are, and what is in them |
//! | [`payload`] | one encoded histogram, of any of the formats |
//! | [`over_time`] | a distribution in its course, in bounded memory |
//! | [`summary`] | the numbers of a distribution, as far as its samples bear them |
//! | [`scale`] | units, and axes that people can read |
//! | [`figures`] | which distributions belong into one picture |
//! | [`terminal`] | drawings of text |
//! | [`page`] | a self-contained page or picture |

pub mod figures;
pub mod over_time;
pub mod page;
pub mod payload;
pub mod read;
pub mod scale;
pub mod summary;
pub mod terminal;
