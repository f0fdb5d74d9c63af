"""Masks that need no tensor: proof, not samples."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from qfa_passes.core.site import Mask, MaskKind, MaskTerm
from tests.match.blocks import PLAIN_INPUTS, Block, site_of
from tests.match.oracle import check_site

SQUARE = "float[B,4,S,8] q, float[B,4,S,8] k, float[B,4,S,6] v"
CONSTANTS = (
    "int64 i0 = {0}, int64 i1 = {1}, int64 i2 = {2}, int64 i3 = {3}, int64 i16 = {16},"
    "int64[1] a0 = {0}, int64[1] a1 = {1}, int64[1] a2 = {2}, int64[1] a3 = {3}, int64[1] a4 = {4},"
    "int64[2] a01 = {0, 1}, int64[1] end = {9223372036854775807},"
    "float ninf = {-inf}, float low = {-3.4028234e38}, float small = {-10000.0}, float zero = {0.0}, float one = {1.0}"
)
INDEX = """
    qs = Shape(q) ks = Shape(k) S = Gather(qs, i2) T = Gather(ks, i2)
    ri = Range(i0, S, i1) rj = Range(i0, T, i1) i = Unsqueeze(ri, a1) j = Unsqueeze(rj, a0)
"""
ONES = """
    qs = Shape(q) ks = Shape(k) s1 = Slice(qs, a2, a3) t1 = Slice(ks, a2, a3) st = Concat<axis=0>(s1, t1)
    ones = Expand(one, st)
"""
CAUSAL = Mask(causal=True)


def masked(mask: str, inputs: str = PLAIN_INPUTS, constants: str = CONSTANTS) -> Block:
    """A block with these nodes between x and y."""
    return Block(inputs=inputs, constants=constants, mask=mask)


TRIANGLES = {
    "less or equal": f"{INDEX} m = LessOrEqual(j, i) y = Where(m, x, ninf)",
    "greater, drop": f"{INDEX} m = Greater(j, i) y = Where(m, ninf, x)",
    "not greater": f"{INDEX} g = Greater(j, i) m = Not(g) y = Where(m, x, ninf)",
    "less than next": f"{INDEX} n = Add(i, i1) m = Less(j, n) y = Where(m, x, ninf)",
    "difference": f"{INDEX} d = Sub(i, j) m = GreaterOrEqual(d, i0) y = Where(m, x, ninf)",
    "finite fill": f"{INDEX} m = LessOrEqual(j, i) y = Where(m, x, low)",
    "weak fill": f"{INDEX} m = LessOrEqual(j, i) y = Where(m, x, small)",
    "bias": f"{INDEX} m = LessOrEqual(j, i) b = Where(m, zero, ninf) y = Add(x, b)",
    "finite bias": f"{INDEX} m = LessOrEqual(j, i) b = Where(m, zero, low) y = Add(x, b)",
    "float index": f"""{INDEX} fi = Cast<to=1>(i) fj = Cast<to=1>(j) m = LessOrEqual(fj, fi)
        y = Where(m, x, ninf)""",
    "trilu": f"{ONES} t = Trilu<upper=0>(ones) m = Cast<to=9>(t) y = Where(m, x, ninf)",
    "trilu, equal": f"{ONES} t = Trilu<upper=0>(ones) m = Equal(t, zero) y = Where(m, ninf, x)",
    "trilu above": f"""{ONES} f = Expand(ninf, st) b = Trilu<upper=1>(f, i1) y = Add(x, b)""",
    "mul by truth": f"""{INDEX} m = Greater(j, i) f = Cast<to=1>(m) b = Mul(f, low) y = Add(x, b)""",
    "constant of shape": f"""{ONES} c = ConstantOfShape<value = bool[1] {{1}}>(st) g = Cast<to=1>(c)
        t = Trilu<upper=0>(g) m = Cast<to=9>(t) y = Where(m, x, ninf)""",
    "with all keys allowed": f"""{INDEX} m1 = LessOrEqual(j, i) m2 = GreaterOrEqual(j, i0)
        m = And(m1, m2) y = Where(m, x, ninf)""",
    "twice": f"""{INDEX} m = LessOrEqual(j, i) x1 = Where(m, x, low) y = Where(m, x1, ninf)""",
}


@pytest.mark.parametrize("name", TRIANGLES)
@pytest.mark.parametrize("sizes", [{"S": 5, "T": 5}, {"S": 3, "T": 7}, {"S": 7, "T": 3}])
def test_triangle(name: str, sizes: Mapping[str, int]) -> None:
    assert check_site(masked(TRIANGLES[name]).model(), sizes).mask == CAUSAL


def test_triangle_of_a_square_model_of_fixed_length() -> None:
    fixed = "float[B,4,6,8] q, float[B,4,6,8] k, float[B,4,6,6] v"
    block = Block(
        inputs=fixed,
        constants=CONSTANTS,
        mask=TRIANGLES["less or equal"],
        outputs="float[B,4,6,6] o",
    )
    assert check_site(block.model(), {}).mask == CAUSAL


def test_padding_beside_the_triangle_stays_small() -> None:
    both = f"""{INDEX} m = LessOrEqual(j, i) a = And(m, keep) e = Expand(a, bst) y = Where(e, x, ninf)"""
    shape = "b1 = Slice(qs, a0, a1) s1 = Slice(qs, a2, a3) t1 = Slice(ks, a2, a3) bst = Concat<axis=0>(b1, a1, s1, t1)"
    block = masked(
        both.replace("e = ", f"{shape} e = "), inputs=f"{PLAIN_INPUTS}, bool[B,1,1,T] keep"
    )
    site = check_site(block.model(), {"S": 6, "T": 6})
    assert site.mask == Mask(True, (MaskTerm("keep", MaskKind.KEEP),))


PAST = f"{INDEX} past = Sub(T, S) pos = Add(i, past)"
AT_END = Mask(causal=True, queries_at_end=True)
BANDS = {
    "one key more": (f"{INDEX} n = Add(i, i1) m = LessOrEqual(j, n)", Mask(right_window=1)),
    "later keys": (f"{INDEX} m = LessOrEqual(i, j)", Mask(left_window=0)),
    "at the end": (f"{PAST} m = LessOrEqual(j, pos)", AT_END),
    "at the end, difference": (
        f"{INDEX} d = Sub(j, i) past = Sub(T, S) m = LessOrEqual(d, past)",
        AT_END,
    ),
    "at the end, ranges": (
        f"{INDEX} past = Sub(T, S) rp = Range(past, T, i1) pos = Unsqueeze(rp, a1) m = LessOrEqual(j, pos)",
        AT_END,
    ),
    "window": (
        f"{INDEX} d = Sub(i, j) m1 = GreaterOrEqual(d, i0) m2 = LessOrEqual(d, i3) m = And(m1, m2)",
        Mask(causal=True, left_window=3),
    ),
    "window, product of truths": (
        f"""{INDEX} d = Sub(i, j) m1 = GreaterOrEqual(d, i0) m2 = LessOrEqual(d, i3) a = Cast<to=7>(m1)
        b = Cast<to=7>(m2) c = Mul(a, b) m = Cast<to=9>(c)""",
        Mask(causal=True, left_window=3),
    ),
    "window, far": (
        f"{INDEX} n = Sub(i, i16) m1 = LessOrEqual(j, i) m2 = Greater(j, n) m = And(m1, m2)",
        Mask(causal=True, left_window=15),
    ),
    "window, doubled": (
        f"""{INDEX} n2 = Add(i3, i3) n4 = Add(n2, n2) n8 = Add(n4, n4) n16 = Add(n8, n8) n32 = Add(n16, n16)
        n = Sub(i, n32) m1 = LessOrEqual(j, i) m2 = LessOrEqual(j, n) m3 = Not(m2) m = And(m1, m3)""",
        Mask(causal=True, left_window=95),
    ),
    "window at the end": (
        f"{PAST} n = Sub(pos, i3) m1 = LessOrEqual(j, pos) m2 = Greater(j, n) m = And(m1, m2)",
        Mask(causal=True, queries_at_end=True, left_window=2),
    ),
    "window on both sides": (
        f"{INDEX} d = Sub(j, i) m1 = LessOrEqual(d, i2) n = Neg(d) m2 = LessOrEqual(n, i3) m = And(m1, m2)",
        Mask(left_window=3, right_window=2),
    ),
    "two windows": (
        f"{INDEX} d = Sub(i, j) m1 = LessOrEqual(d, i2) m2 = LessOrEqual(d, i3) m = And(m1, m2)",
        Mask(left_window=2),
    ),
    "window by truths": (
        f"{INDEX} d = Sub(i, j) m1 = Less(d, i0) m2 = Greater(d, i3) h = Or(m1, m2) m = Not(h)",
        Mask(causal=True, left_window=3),
    ),
    "positions gathered": (
        f"{INDEX} g = Gather<axis=0>(rj, i) m = LessOrEqual(j, g)",
        Mask(causal=True),
    ),
    "positions by index pairs": (
        f"""{INDEX} two = Concat<axis=0>(u, u) u = Unsqueeze(rj, a0) st = Shape(x) i4 = Unsqueeze(i, a01)
        z4 = Mul(i4, i0) pair4 = Unsqueeze(i4, a4) zero4 = Unsqueeze(z4, a4) at = Concat<axis=-1>(zero4, pair4)
        g = GatherND(two, at) m = LessOrEqual(j, g)""",
        Mask(causal=True),
    ),
    "trilu twice": (
        f"""{ONES} below = Trilu<upper=0>(ones) back = Neg(i2) both = Trilu<upper=1>(below, back)
        m = Cast<to=9>(both)""",
        Mask(causal=True, left_window=2),
    ),
}


@pytest.mark.parametrize("name", BANDS)
@pytest.mark.parametrize("sizes", [{"S": 5, "T": 5}, {"S": 3, "T": 7}])
def test_band(name: str, sizes: Mapping[str, int]) -> None:
    nodes, wanted = BANDS[name]
    block = masked(f"{nodes} y = Where(m, x, ninf)")
    assert check_site(block.model(), sizes).mask == wanted


CACHED = {
    "added": "n = Add(i, P) m = LessOrEqual(j, n)",
    "joined": """r1 = Range(i0, P, i1) r2 = Range(P, T, i1) r = Concat<axis=0>(r1, r2) c = Unsqueeze(r, a0)
        n = Add(i, P) m = LessOrEqual(c, n)""",
    "from a range": "r = Range(P, T, i1) n = Unsqueeze(r, a1) m = LessOrEqual(j, n)",
    "counted": """t1 = Slice(ks, a2, a3) ones = ConstantOfShape<value = int64[1] {1}>(t1) c = CumSum(ones, i0)
        z = Sub(c, i1) P1 = Unsqueeze(P, a0) T1 = Unsqueeze(T, a0) l = Slice(z, P1, T1, a0) n = Unsqueeze(l, a1)
        m = LessOrEqual(j, n)""",
    "slice of a triangle": """t1 = Slice(ks, a2, a3) tt = Concat<axis=0>(t1, t1) ones = Expand(one, tt)
        t = Trilu<upper=0>(ones) P1 = Unsqueeze(P, a0) T1 = Unsqueeze(T, a0)
        l = Slice(t, P1, T1, a0) m = Cast<to=9>(l)""",
}


@pytest.mark.parametrize("name", CACHED)
def test_lengths_of_a_cache(name: str) -> None:
    """The keys are past ones and new ones; the queries are as many as the new ones."""
    inputs = "float[B,4,S,8] q, float[B,4,P,8] pk, float[B,4,S,8] nk, float[B,4,P,6] pv, float[B,4,S,6] nv"
    nodes = f"{INDEX} ps = Shape(pk) P = Gather(ps, i2) {CACHED[name]} y = Where(m, x, low)"
    before = "k = Concat<axis=2>(pk, nk) v = Concat<axis=2>(pv, nv)"
    block = replace(masked(nodes, inputs), before=before)
    assert check_site(block.model(), {"P": 3}).mask == AT_END


def test_positions_that_tell_packed_sequences_apart() -> None:
    """A new sequence starts where a position is not the last one plus 1: nowhere, for positions from a range."""
    nodes = f"""{INDEX} n1 = Neg(i1) m1 = Unsqueeze(n1, a0) l = Concat<axis=0>(m1, ri) st = Unsqueeze(S, a0)
        before = Slice(l, a0, st, a0) step = Sub(ri, before) e = Equal(step, i1) starts = Not(e)
        c = Cast<to=7>(starts) row = CumSum(c, i0) rows = Unsqueeze(row, a1) columns = Unsqueeze(row, a0)
        same = Equal(rows, columns) le = LessOrEqual(j, i) m = And(same, le) y = Where(m, x, ninf)"""
    assert check_site(masked(nodes, SQUARE).model(), {"S": 6}).mask == CAUSAL


def test_soft_triangle_at_the_end_needs_as_many_keys_as_queries() -> None:
    """With fewer keys than queries the first rows see nothing, and a finite fill makes a mean of V of them."""
    nodes = f"{PAST} m = LessOrEqual(j, pos) y = Where(m, x, low)"
    site = check_site(masked(nodes).model(), {"S": 7, "T": 3})
    assert [term.tensor for term in site.mask.terms] == ["m"]


def test_soft_window_may_leave_rows_without_a_key() -> None:
    nodes = f"""{INDEX} d = Sub(i, j) m1 = GreaterOrEqual(d, i0) m2 = LessOrEqual(d, i2) m = And(m1, m2)
        y = Where(m, x, low)"""
    site = check_site(masked(nodes).model(), {"S": 9, "T": 3})
    assert [term.tensor for term in site.mask.terms] == ["m"]
    square = check_site(masked(nodes, SQUARE).model(), {"S": 6})
    assert square.mask == Mask(causal=True, left_window=2)


def test_triangle_among_biases() -> None:
    nodes = f"{INDEX} m = LessOrEqual(j, i) t = Where(m, zero, ninf) b = Add(bias, t) y = Add(x, b)"
    site = check_site(masked(nodes, f"{PLAIN_INPUTS}, float[B,1,S,T] bias").model(), {"S": 6})
    assert site.mask == Mask(True, (MaskTerm("bias", MaskKind.BIAS),))


def test_biases_without_a_triangle_stay_one_value() -> None:
    nodes = "b = Add(bias, other) y = Add(x, b)"
    site = check_site(
        masked(nodes, f"{PLAIN_INPUTS}, float[B,1,S,T] bias, float[S,T] other").model()
    )
    assert site.mask == Mask(terms=(MaskTerm("b", MaskKind.BIAS),))


TABLES = {
    "triangle": ("bool", lambda row, key: key <= row + 2, AT_END),
    "window": ("bool", lambda row, key: row <= key <= row + 2, Mask(True, (), True, left_window=2)),
    "later keys": ("bool", lambda row, key: key >= row, Mask(left_window=0)),
    "all": ("bool", lambda row, key: True, Mask()),
    "one key less": ("bool", lambda row, key: key <= row + 2 and (row, key) != (2, 1), None),
    "stairs": ("bool", lambda row, key: key // 2 <= row // 2, None),
    "columns": ("bool", lambda row, key: key != 3, None),
}


@pytest.mark.parametrize("name", TABLES)
def test_table_of_a_model_of_fixed_lengths(name: str) -> None:
    kind, rule, wanted = TABLES[name]
    numbers = ", ".join(str(int(rule(row, key))) for row in range(4) for key in range(6))
    block = masked(
        "y = Where(table, x, ninf)",
        "float[B,4,4,8] q, float[B,4,6,8] k, float[B,4,6,6] v",
        f"{CONSTANTS}, {kind}[4,6] table = {{{numbers}}}",
    )
    site = check_site(replace(block, outputs="float[B,4,4,6] o").model(), {})
    assert site.mask == (wanted or Mask(terms=(MaskTerm("table", MaskKind.KEEP),)))


def test_slice_of_a_table() -> None:
    """The last rows of a triangle are a triangle at the end."""
    numbers = ", ".join(str(int(key <= row)) for row in range(8) for key in range(8))
    block = masked(
        "past = Slice(table, a2, six, a0) m = Slice(past, a0, six, a1) y = Where(m, x, ninf)",
        "float[B,4,4,8] q, float[B,4,6,8] k, float[B,4,6,6] v",
        f"{CONSTANTS}, bool[8,8] table = {{{numbers}}}, int64[1] six = {{6}}",
    )
    site = check_site(replace(block, outputs="float[B,4,4,6] o").model(), {})
    assert site.mask == AT_END


NOT_TRIANGLES = {
    "off by one": f"{INDEX} m = Less(j, i) y = Where(m, x, ninf)",
    "aligned one off the end": f"""{INDEX} past = Sub(T, S) n = Add(i, past) m = Less(j, n)
        y = Where(m, x, ninf)""",
    "aligned twice over": f"""{INDEX} past = Sub(T, S) n = Add(i, past) n2 = Add(n, past) m = LessOrEqual(j, n2)
        y = Where(m, x, ninf)""",
    "two alignments at once": f"""{INDEX} past = Sub(T, S) n = Add(i, past) m1 = LessOrEqual(j, n)
        m2 = GreaterOrEqual(j, i) a = Cast<to=7>(m1) b = Cast<to=7>(m2) c = Mul(a, b) m = Cast<to=9>(c)
        y = Where(m, x, ninf)""",
    "window that the length sets": f"""{INDEX} n = Sub(i, T) n2 = Add(n, S) m = Greater(j, n2)
        m2 = LessOrEqual(j, i) m3 = And(m, m2) m4 = Or(m3, m3) n5 = Not(m4) c = Cast<to=7>(n5) e = Equal(c, i1)
        y = Where(e, ninf, x)""",
    "positions gathered from the end": f"""{INDEX} n = Sub(i, i1) g = Gather<axis=0>(rj, n) m = LessOrEqual(j, g)
        y = Where(m, x, ninf)""",
    "positions joined with a gap": f"""{INDEX} f0 = Slice(ri, a0, a1) r1 = Slice(ri, a2, end)
        r = Concat<axis=0>(f0, f0, r1) pos = Unsqueeze(r, a1) m = LessOrEqual(j, pos) y = Where(m, x, ninf)""",
    "of the queries alone": f"{INDEX} m = Less(i, i3) y = Where(m, x, ninf)",
    "of the keys alone": f"{INDEX} m = Less(j, i3) y = Where(m, x, ninf)",
    "every second key": f"{INDEX} n = Add(j, j) m = LessOrEqual(n, i) y = Where(m, x, ninf)",
    "first rows only": f"""{INDEX} m1 = LessOrEqual(j, i) m2 = Less(i, i3) m = Or(m1, m2)
        y = Where(m, x, ninf)""",
    "steep": f"""{INDEX} n = Add(i, i) m = LessOrEqual(j, n) y = Where(m, x, ninf)""",
    "depends on the batch": f"""{INDEX} B = Gather(qs, i0) m1 = LessOrEqual(j, i) m2 = Greater(B, S)
        m = Or(m1, m2) y = Where(m, x, ninf)""",
    "only when lengths differ": f"""{INDEX} past = Sub(T, S) m1 = LessOrEqual(j, i) e = Equal(i, past)
        p1 = Greater(past, i0)
        m2 = And(e, p1) m = Or(m1, m2) y = Where(m, x, ninf)""",
    "weak bias": f"{INDEX} c = LessOrEqual(j, i) m = Where(c, zero, small) y = Add(x, m)",
}


@pytest.mark.parametrize("name", NOT_TRIANGLES)
def test_near_triangle_keeps_its_tensor(name: str) -> None:
    site = site_of(masked(NOT_TRIANGLES[name]).model())
    assert not site.mask.causal
    assert len(site.mask.terms) == 1
    check_site(masked(NOT_TRIANGLES[name]).model(), {"S": 6, "T": 7})


HIDDEN = {
    "steep line far away": f"""{INDEX} i4 = Add(i, i) i8 = Add(i4, i4) ia = Add(i8, i8) ib = Add(ia, ia)
        ic = Add(ib, ib) id = Add(ic, ic) ie = Add(id, id) one2 = Add(ie, i1) m1 = LessOrEqual(j, i)
        m2 = Greater(j, one2) m = Or(m1, m2) y = Where(m, x, ninf)""",
    "product of indices": f"""{INDEX} sq = Mul(i, i) m1 = LessOrEqual(j, i) m2 = Greater(j, sq) m3 = Greater(i, i1)
        m4 = And(m2, m3) m = Or(m1, m4) y = Where(m, x, ninf)""",
    "modulus": f"""{INDEX} r = Mod(j, i16) m = LessOrEqual(r, i) y = Where(m, x, ninf)""",
    "table": f"""{INDEX} s1 = Slice(qs, a2, a3) t1 = Slice(ks, a2, a3) st = Concat<axis=0>(s1, t1)
        m = Slice(table, zeros, st) y = Where(m, x, ninf)""",
    "from positions": f"""{INDEX} pos = Unsqueeze(ids, a1) m = LessOrEqual(j, pos) y = Where(m, x, ninf)""",
    "window that an input sets": f"""{INDEX} n = Sub(i, width) m1 = LessOrEqual(j, i) m2 = LessOrEqual(j, n)
        m3 = Not(m2) c1 = Or(m3, m3) b1 = Cast<to=7>(m1) b2 = Cast<to=7>(c1) c = Mul(b1, b2) m = Cast<to=9>(c)
        y = Where(m, x, ninf)""",
    "index of few bits": f"""{INDEX} fi = Cast<to=10>(i) fj = Cast<to=10>(j) m = LessOrEqual(fj, fi)
        y = Where(m, x, ninf)""",
    "index that wraps": f"""{INDEX} bi = Cast<to=3>(i) bj = Cast<to=3>(j) m = LessOrEqual(bj, bi)
        y = Where(m, x, ninf)""",
    "random": f"""{INDEX} r = RandomUniform<shape=[1,1], low=2.0, high=3.0>() f = Cast<to=1>(j) g = Mul(f, r)
        h = Cast<to=1>(i) u = LessOrEqual(f, h) y = Where(u, x, ninf) unused = Identity(g)""",
}


@pytest.mark.parametrize("name", HIDDEN)
def test_what_short_lengths_do_not_show(name: str) -> None:
    """Each of these is the causal triangle, or may be, at every length that one would think of trying."""
    rows = ", ".join("1" if key <= row else "0" for row in range(40) for key in range(40))
    block = masked(
        HIDDEN[name],
        inputs=f"{SQUARE}, int64[S] ids, int64 width",
        constants=f"{CONSTANTS}, int64[2] zeros = {{0, 0}}, bool[40,40] table = {{{rows}}}",
    )
    site = site_of(block.model())
    if name == "random":  # the random number reaches nothing
        assert site.mask == CAUSAL
        return
    assert not site.mask.causal
    assert [term.tensor for term in site.mask.terms] == ["m"]


def test_soft_triangle_beside_another_mask_keeps_its_tensor() -> None:
    """A row whose own keys are all hidden otherwise would see the later ones."""
    mask = f"{INDEX} m = LessOrEqual(j, i) x1 = Where(m, x, low) y = Where(keep, x1, ninf)"
    site = site_of(masked(mask, f"{PLAIN_INPUTS}, bool[B,1,1,T] keep").model())
    assert not site.mask.causal
    assert [term.tensor for term in site.mask.terms] == ["m", "keep"]


def test_mask_of_two_symbols_that_happen_to_agree() -> None:
    """T of the mask is an input's length, declared apart from the keys'."""
    mask = f"""{INDEX} os = Shape(other) U = Gather(os, i0) ru = Range(i0, U, i1) u = Unsqueeze(ru, a0)
        m = LessOrEqual(u, i) y = Where(m, x, ninf)"""
    site = site_of(masked(mask, f"{PLAIN_INPUTS}, float[U] other").model())
    assert not site.mask.causal
