"""Lighter meshes: fewer triangles at the same places, whatever the mesh is like."""

import copy

import mujoco
import numpy as np
import pytest
from scipy.spatial import cKDTree

from vla_cl.envs.simplified_meshes import ERROR, Mesh, read_mesh, simplified, simplify_meshes, write_mesh

NOTHING = np.zeros((0, 2), np.float32)


def grid(columns, rows, surface, closed=False):
    """Triangles over the unit square, put into space by ``surface(u, v)``."""
    u, v = np.meshgrid(np.linspace(0, 1, columns + 1), np.linspace(0, 1, rows + 1), indexing="ij")
    vertices = np.stack(surface(u.ravel(), v.ravel()), axis=1).astype(np.float32)
    first = (np.arange(columns)[:, None] * (rows + 1) + np.arange(rows)).ravel()
    square = np.stack([first, first + rows + 1, first + rows + 2, first + 1], axis=1)
    faces = np.concatenate([square[:, [0, 1, 2]], square[:, [0, 2, 3]]]).astype(np.int32)
    return vertices, faces, np.stack([u.ravel(), v.ravel()], axis=1).astype(np.float32)


def mesh_of(vertices, faces, coordinates=NOTHING):
    face_coordinates = faces if len(coordinates) else np.zeros_like(faces)
    return Mesh(vertices, faces, np.zeros_like(vertices), faces, coordinates, face_coordinates)


def sphere(u, v):
    return np.sin(np.pi * v) * np.cos(2 * np.pi * u), np.sin(np.pi * v) * np.sin(2 * np.pi * u), -np.cos(np.pi * v)


def torn(mesh):
    """The same triangles, no two of which share a vertex."""
    faces = np.arange(mesh.faces.size, dtype=np.int32).reshape(-1, 3)
    coordinates = mesh.coordinates[mesh.face_coordinates].reshape(-1, 2) if len(mesh.coordinates) else NOTHING
    return mesh_of(mesh.vertices[mesh.faces].reshape(-1, 3), faces, coordinates)


def samples(mesh, count=40_000):
    corners = mesh.vertices[mesh.faces].astype(float)
    areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    random = np.random.default_rng(0)
    weights = random.dirichlet([1, 1, 1], count)
    return np.einsum("ij,ijk->ik", weights, corners[random.choice(len(corners), count, p=areas / areas.sum())])


def distance(mesh, other):
    """The largest distance of a point of one to the other, of what sampling leaves uncertain, the mean gap, less."""
    points, others = samples(mesh), samples(other)
    gap = cKDTree(points[:20_000]).query(points[20_000:])[0].max()
    return max(cKDTree(points).query(others)[0].max(), cKDTree(others).query(points)[0].max()) - gap


SHAPES = {
    "closed": mesh_of(*grid(64, 48, sphere)[:2]),
    "torn": torn(mesh_of(*grid(64, 48, sphere)[:2])),
    "open border": mesh_of(*grid(60, 40, lambda u, v: (u, v, 0.2 * np.sin(6 * u)))[:2]),
    "flat": mesh_of(*grid(40, 40, lambda u, v: (u, v, 0 * u))[:2]),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_fraction_of_the_triangles_stays_at_the_same_place(name):
    mesh = SHAPES[name]
    lighter = simplified(mesh)
    size = np.linalg.norm(np.ptp(mesh.vertices, axis=0))
    assert 2 <= len(lighter.faces) < len(mesh.faces) / 4
    assert distance(mesh, lighter) < 1.5 * ERROR * size


def test_a_flat_sheet_keeps_its_outline_and_becomes_a_handful_of_triangles():
    lighter = simplified(SHAPES["flat"])
    assert len(lighter.faces) < 40
    corners = lighter.vertices[lighter.faces]
    areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
    assert areas.sum() == pytest.approx(1, abs=0.01)


def test_both_sides_of_a_thin_sheet_stay():
    sheet = SHAPES["flat"]
    double = mesh_of(sheet.vertices, np.concatenate([sheet.faces, sheet.faces[:, ::-1]]))
    lighter = simplified(double)
    up = np.cross(*(lighter.vertices[lighter.faces[:, i]] - lighter.vertices[lighter.faces[:, 0]] for i in (1, 2)))[
        :, 2
    ]
    assert up[up > 0].sum() / 2 == pytest.approx(1, abs=0.02)
    assert -up[up < 0].sum() / 2 == pytest.approx(1, abs=0.02)
    assert len(lighter.faces) < len(double.faces) / 4


def test_normals_are_smooth_where_the_surface_is_and_sharp_at_its_edges():
    lighter = simplified(SHAPES["closed"])
    outward = lighter.vertices[lighter.faces]
    normals = lighter.normals[lighter.face_normals]
    assert np.linalg.norm(normals, axis=-1) == pytest.approx(1, abs=1e-5)
    signs = np.sign((normals * outward).sum(-1).mean())
    assert ((normals * outward).sum(-1) * signs).min() > 0.9
    roof = simplified(mesh_of(*grid(40, 40, lambda u, v: (u, v, -np.abs(u - 0.5)))[:2]))
    bent = np.abs(roof.normals[roof.face_normals]) - [np.sqrt(0.5), 0, np.sqrt(0.5)]
    assert np.abs(bent).max() < 1e-3  # each side keeps its own up to the ridge


@pytest.mark.parametrize("shape", [lambda m: m, torn], ids=["whole", "torn"])
def test_texture_coordinates_stay_where_they_were_on_both_sides_of_a_seam(shape):
    vertices, faces, coordinates = grid(80, 40, sphere)  # u runs from 0 to 1 around the ball and meets itself at a seam
    mesh = shape(mesh_of(vertices, faces, coordinates))
    lighter = simplified(mesh)
    corners = lighter.vertices[lighter.faces]
    found = lighter.coordinates[lighter.face_coordinates]
    expected_v = np.arccos(np.clip(-corners[..., 2] / np.linalg.norm(corners, axis=-1), -1, 1)) / np.pi
    assert np.abs(found[..., 1] - expected_v).max() < 0.05
    away_from_poles = np.abs(corners[..., 2]).max(axis=1) < 0.9
    assert np.ptp(found[away_from_poles, :, 0], axis=1).max() < 0.5  # no triangle runs backwards around the ball


def test_equal_meshes_give_equal_bytes_even_without_memory(monkeypatch):
    first = simplified(SHAPES["torn"])
    monkeypatch.setattr("vla_cl.envs.simplified_meshes._cache", {})
    simplified(SHAPES["closed"])
    again = simplified(SHAPES["torn"])
    assert first is not again
    for name in Mesh.__dataclass_fields__:
        assert np.array_equal(getattr(first, name), getattr(again, name)), name


def scene(mesh, geoms='<geom type="mesh" mesh="m"/>'):
    return f"<mujoco><asset>{mesh}</asset><worldbody>{geoms}</worldbody></mujoco>"


def test_only_what_is_shown_and_large_is_replaced():
    balls = "".join(f'<mesh name="{name}" builtin="sphere" params="{level}"/>' for name, level in
                    (("shown", 4), ("hidden", 4), ("small", 1)))  # fmt: skip
    geoms = "".join(f'<geom type="mesh" mesh="{name}"/>' for name in ("shown", "hidden", "small"))
    model = mujoco.MjModel.from_xml_string(scene(balls, geoms))
    look = copy.copy(model)
    simplify_meshes(look, {0, 2})
    assert look.mesh_facenum[0] < model.mesh_facenum[0] / 2
    assert look.mesh_facenum[1] == model.mesh_facenum[1]
    assert look.mesh_facenum[2] == model.mesh_facenum[2] < 256
    for name in ("mesh_face", "mesh_facenormal"):
        rows = slice(model.mesh_faceadr[1], None)
        assert np.array_equal(getattr(look, name)[rows], getattr(model, name)[rows])


def test_a_mesh_that_does_not_fit_leaves_everything_as_it_was():
    model = mujoco.MjModel.from_xml_string(scene('<mesh name="m" builtin="sphere" params="1"/>'))
    before = model.mesh_vert.copy(), model.mesh_face.copy(), model.mesh_facenum.copy()
    assert not write_mesh(model, 0, SHAPES["closed"])
    assert all(map(np.array_equal, before, (model.mesh_vert, model.mesh_face, model.mesh_facenum)))
    assert write_mesh(model, 0, read_mesh(model, 0))
