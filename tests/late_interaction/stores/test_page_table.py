"""The copy of the table in memory, of which there may be millions of rows."""

import numpy as np
import pytest
from jina_embeddings_v4.late_interaction.stores.page_table import Catalog, pack_ids, unpack_ids


def random_ids(count, seed=0):
    random = np.random.default_rng(seed)
    return [random.bytes(12).hex() for _ in range(count)]


def catalog_of(ids):
    return Catalog(0, 0, pack_ids(ids), pack_ids(ids[::-1]), np.zeros((len(ids), 4), np.int32))


def test_ids_come_back_and_keep_their_order():
    ids = ["0" * 24, "f" * 24, "ab" * 11 + "00", "00" * 11 + "ff", *random_ids(500)]
    packed = pack_ids(ids)
    assert unpack_ids(packed).tolist() == ids and unpack_ids(packed[3:1:-1]).tolist() == ids[3:1:-1]
    assert [ids[i] for i in np.argsort(packed)] == sorted(ids)
    assert unpack_ids(packed[:0]).tolist() == [] and pack_ids([]).tolist() == []


@pytest.mark.parametrize("wrong", ["a" * 23, "a" * 25, "g" * 24, "a" * 22 + "  ", ""])
def test_what_is_no_id_is_named_where_it_is_stored_and_not_found_where_it_is_looked_up(wrong):
    ids = random_ids(5)
    with pytest.raises(ValueError, match=f"24 hexadecimal digits, found '{wrong}'"):
        pack_ids([ids[0], wrong])
    # Together with its neighbour, it may have the length of two ids.
    asked = [ids[4], wrong, "a" * (48 - len(wrong)), ids[0], "b" * 24]
    assert catalog_of(ids).rows(asked).tolist() == [4, -1, -1, 0, -1]


def test_pages_are_looked_up_and_told():
    ids = random_ids(1000)
    catalog = catalog_of(ids)
    some = np.array([3, 999, 0])
    assert catalog.rows([ids[i] for i in some]).tolist() == some.tolist()
    assert catalog.ids(some).tolist() == [ids[i] for i in some] and catalog.sample_ids(some)[0] == ids[-4]
    assert catalog.ids().tolist() == ids and len(catalog) == 1000
    with pytest.raises(KeyError, match="c" * 24):
        catalog.rows_of_present([ids[0], "c" * 24])
    assert catalog_of([]).rows(ids[:2]).tolist() == [-1, -1] and catalog.rows([]).tolist() == []


def test_a_page_takes_48_bytes():
    catalog = catalog_of(random_ids(1000))
    catalog.rows(random_ids(1))
    parts = [value for value in vars(catalog).values() if isinstance(value, np.ndarray)]
    assert sum(part.nbytes for part in parts) == 48 * len(catalog)
