"""Make `envs/assets/kuka_arm.npz`, the coarse meshes of the arm that the JAX renderer draws, from PyBullet's fine ones.

    python benchmarks/simplify_kuka_meshes.py

Edges are collapsed in the order of their quadric errors (Garland and Heckbert, 1997, "Surface simplification using
quadric error metrics") until a link has the wanted number of triangles. Normals at the corners are those of the fine
mesh nearby, on faces that look the same way.
"""

from __future__ import annotations

import heapq
from collections import Counter
from pathlib import Path

import numpy as np
import pybullet_data
import trimesh
from scipy.spatial import cKDTree

OUTPUT = Path(__file__).resolve().parent.parent / "envs" / "assets" / "kuka_arm.npz"
# File, body (0 is the base, i + 1 is link i) and number of triangles for large and for small pictures.
PARTS = (
    ("link_0.obj", 0, (60, 32)),
    *((f"link_{link}.obj", link, (90, 44)) for link in range(1, 7)),
    ("link_7.obj", 7, (64, 32)),
    ("finger_base_left.stl", 10, (14, 10)),
    ("finger_tip_left.stl", 11, (14, 10)),
    ("finger_base_right.stl", 13, (14, 10)),
    ("finger_tip_right.stl", 14, (14, 10)),
)
LENGTH_UNIT, NORMAL_UNIT = 1e-4, 1 / 127
BORDER_WEIGHT = 10.0
NEIGHBOURS = 24


def face_normals(corners: np.ndarray) -> np.ndarray:
    """Normals [n, 3] of triangles [n, 3, 3], as long as twice their areas."""
    return np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])


class Simplifier:
    """Collapses edges of a mesh of triangles [n, 3, 3]."""

    def __init__(self, corners: np.ndarray) -> None:
        self.vertices, index = np.unique(np.round(corners.reshape(-1, 3), 5), axis=0, return_inverse=True)
        faces = index.reshape(-1, 3)
        self.faces = {i: list(f) for i, f in enumerate(faces.tolist()) if len(set(f)) == 3}
        self.around: list[set[int]] = [set() for _ in self.vertices]
        self.quadrics = np.zeros((len(self.vertices), 4, 4))
        self.versions = [0] * len(self.vertices)
        self.heap: list[tuple[float, int, int, int, int, tuple[float, ...]]] = []
        self._add_quadrics()

    def run(self, wanted: int) -> np.ndarray:
        """The triangles [wanted, 3, 3] that are left."""
        while len(self.faces) > wanted and self.heap:
            _, a, b, version_a, version_b, place = heapq.heappop(self.heap)
            stale = self.versions[a] != version_a or self.versions[b] != version_b
            if not stale and not self._flips(a, b, np.array(place)):
                self._collapse(a, b, np.array(place))
        return self.vertices[np.array(list(self.faces.values()))]

    def _add_quadrics(self) -> None:
        """Squared distances to the planes of the faces, and to upright planes through open edges."""
        edges: Counter[tuple[int, int]] = Counter()
        for number, face in self.faces.items():
            for k, vertex in enumerate(face):
                self.around[vertex].add(number)
                edges[self._edge(vertex, face[k - 1])] += 1
        for face in self.faces.values():
            normal = face_normals(self.vertices[[face]])[0]
            self._add_plane(face, normal, self.vertices[face[0]], float(np.linalg.norm(normal)))
            for k, vertex in enumerate(face):
                pair = self._edge(vertex, face[k - 1])
                if edges[pair] == 1:
                    along = self.vertices[pair[1]] - self.vertices[pair[0]]
                    upright = np.cross(along, normal)
                    self._add_plane(list(pair), upright, self.vertices[pair[0]], BORDER_WEIGHT * along @ along)
        for pair in edges:
            self._push(*pair)

    def _add_plane(self, vertices: list[int], normal: np.ndarray, point: np.ndarray, weight: float) -> None:
        length = np.linalg.norm(normal)
        if length > 1e-14:
            plane = np.append(normal, -normal @ point) / length
            self.quadrics[vertices] += weight * np.outer(plane, plane)

    def _edge(self, a: int, b: int) -> tuple[int, int]:
        return min(a, b), max(a, b)

    def _push(self, a: int, b: int) -> None:
        """Put an edge into the queue, with its cost and the place to which both ends would move."""
        quadric = self.quadrics[a] + self.quadrics[b]
        ends = self.vertices[[a, b]]
        middle, length = ends.mean(axis=0), np.linalg.norm(ends[1] - ends[0])
        pull = 1e-6 * np.trace(quadric[:3, :3])  # to the middle where the quadric does not decide
        system = quadric[:3, :3] + (pull + 1e-15) * np.eye(3)
        place = np.linalg.solve(system, pull * middle - quadric[:3, 3])
        if np.linalg.norm(place - middle) > 2 * length:
            place = middle
        point = np.append(place, 1.0)
        cost = max(point @ quadric @ point, 0.0) + 1e-12 * length**2
        heapq.heappush(self.heap, (cost, a, b, self.versions[a], self.versions[b], tuple(place)))

    def _flips(self, a: int, b: int, place: np.ndarray) -> bool:
        """Whether a face that stays would turn by more than about 84 degrees."""
        for number in self.around[a] ^ self.around[b]:
            face = self.faces[number]
            before = self.vertices[face]
            after = np.array([place if vertex in (a, b) else self.vertices[vertex] for vertex in face])
            old, new = face_normals(np.stack([before, after]))
            if old @ new < 0.1 * np.linalg.norm(old) * np.linalg.norm(new):
                return True
        return False

    def _collapse(self, a: int, b: int, place: np.ndarray) -> None:
        """Move both ends of an edge to one place; vertex b is no more."""
        self.vertices[a] = place
        self.quadrics[a] += self.quadrics[b]
        for number in self.around[a] & self.around[b]:
            for vertex in self.faces.pop(number):
                self.around[vertex].discard(number)
        for number in self.around[b]:
            self.faces[number] = [a if vertex == b else vertex for vertex in self.faces[number]]
        self.around[a] |= self.around[b]
        self.around[b] = set()
        self.versions[a] += 1
        self.versions[b] = -1
        for vertex in {v for number in self.around[a] for v in self.faces[number]} - {a}:
            self._push(*self._edge(a, vertex))


def smooth_normals(corners: np.ndarray, fine: trimesh.Trimesh) -> np.ndarray:
    """Normals [n, 3, 3] at the corners of coarse triangles, from the vertices of the fine mesh around them."""
    distances, nearby = cKDTree(fine.vertices).query(corners.reshape(-1, 3), k=NEIGHBOURS)
    flat = face_normals(corners)
    flat = np.repeat(flat / np.linalg.norm(flat, axis=1, keepdims=True), 3, axis=0)
    normals = fine.vertex_normals[nearby]
    alike = np.maximum(np.einsum("nki,ni->nk", normals, flat), 0.0) ** 2 / (distances + 0.003)
    mean = np.einsum("nk,nki->ni", alike, normals) + 1e-3 * flat
    return (mean / np.linalg.norm(mean, axis=1, keepdims=True)).reshape(-1, 3, 3)


def simplified(detail: int) -> dict[str, np.ndarray]:
    """The whole arm with the numbers of triangles at that index of `PARTS`, as it is stored."""
    folder = Path(pybullet_data.getDataPath()) / "kuka_iiwa" / "meshes"
    parts = []
    for name, body, wanted in PARTS:
        fine = trimesh.load(folder / name, force="mesh", process=False)
        corners = Simplifier(np.array(fine.triangles)).run(wanted[detail])
        if name.endswith(".stl"):  # PyBullet draws these with flat faces
            flat = face_normals(corners)
            normals = np.repeat((flat / np.linalg.norm(flat, axis=1, keepdims=True))[:, None], 3, axis=1)
        else:
            normals = smooth_normals(corners, fine)
        parts.append((corners, normals, np.full(len(corners), body)))
        print(f"{name}: {len(fine.triangles)} triangles -> {len(corners)}")
    corners, normals, bodies = (np.concatenate(column) for column in zip(*parts, strict=True))
    return {
        "corners": np.round(corners / LENGTH_UNIT).astype(np.int16),
        "normals": np.round(normals / NORMAL_UNIT).astype(np.int8),
        "bodies": bodies.astype(np.uint8),
    }


def main() -> None:
    """Write the file."""
    meshes = {"large": simplified(0), "small": simplified(1)}
    arrays = {f"{size}_{name}": array for size, mesh in meshes.items() for name, array in mesh.items()}
    np.savez_compressed(OUTPUT, **arrays)


if __name__ == "__main__":
    main()
