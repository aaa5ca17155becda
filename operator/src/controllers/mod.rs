//! One folder per kind, with the same files in each: `observe` (reads), `plan` (decides, pure), `act`
//! (writes, where there is something to write beside status) and `report` (status, pure).

pub mod cloud_instance;
pub mod reef;
pub mod reef_class;
pub mod region;
pub mod retained_instance;
