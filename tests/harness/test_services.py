"""Services of a job file: recipes, placement, order, and the answer that each mistake gets."""

from pathlib import Path

import pytest
import yaml

from jobmeter.errors import SpecError
from jobmeter.plan import Context, make_plan
from jobmeter.recipe import read_recipe, shipped_recipes
from jobmeter.services import in_the_home
from jobmeter.site import Storage, read_site
from jobmeter.spec import JobSpec, read_spec


def planned(text, tmp_path, **site):
    path = tmp_path / "job.yaml"
    path.write_text(text)
    profile = read_site("generic-slurm").model_copy(update=site)
    spec, _ = read_spec(path)
    context = Context("r", Path("/runs/r"), "job.yaml", tmp_path, "/py", "0")
    return make_plan(spec, "generic-slurm", profile, context)


def service(text, tmp_path, nodes=2, **site):
    head = f"run: x\nresources: {{nodes: {nodes}}}\nservices:\n  one: "
    return planned(head + text, tmp_path, **site).services.every


def words(planned_service):
    return [str(word) for part in planned_service.command for word in part.words]


WRONG = {
    "unknown recipe": (
        "{recipe: vlm}",
        "services.one.recipe: no such recipe 'vlm'; did you mean 'vllm'?",
    ),
    "no recipe": (
        "{node: 0}",
        "services.one: key 'recipe' is missing; add it",
    ),
    "missing file": (
        "{recipe: own.yaml}",
        "own.yaml: no such file",
    ),
    "missing parameter": (
        "{recipe: vllm}",
        "services.one: key 'model' is missing; add it (name or folder",
    ),
    "unknown parameter": (
        "{recipe: vllm, modle: x}",
        "services.one: unknown key 'modle'; did you mean 'model'?",
    ),
    "a list for one": (
        "{recipe: vllm, model: [a, b]}",
        "services.one.model: a list, where one value is expected",
    ),
    "a mapping": (
        "{recipe: vllm, model: {a: b}}",
        "services.one.model: {'a': 'b'} is neither text nor a number",
    ),
    "no such node": (
        "{recipe: qdrant, node: 2}",
        "services.one.node: 2, but the nodes of the job are 0 to 1",
    ),
    "too many nodes": (
        "{recipe: vllm, model: m, nodes: 3}",
        "services.one.nodes: 3, but the job has 2",
    ),
    "a server that has one": (
        "{recipe: qdrant, nodes: 2}",
        "services.one.nodes: 2, but a service by recipe 'qdrant' has one node",
    ),
    "a gateway's name": (
        "{recipe: qdrant}\n  gateway: {recipe: qdrant}",
        "services: 'gateway' is one of our own exporters",
    ),
    "after nobody": (
        "{recipe: qdrant, after: [two]}",
        "services.one.after: no service 'two'; known: one",
    ),
    "after itself": (
        "{recipe: qdrant, after: [one]}",
        "services: one waits for one, so that none can start",
    ),
    "bad variable": (
        "{recipe: qdrant, environment: {'a b': c}}",
        "'a b' cannot be a variable's name",
    ),
    "unknown placeholder": (
        "{recipe: http, command: ['{{ prot }}']}",
        "services.one.command: no placeholder 'prot'; did you mean 'port'?",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_each_mistake_has_its_answer(name, tmp_path):
    text, answer = WRONG[name]
    with pytest.raises(SpecError) as refused:
        service(text, tmp_path)
    assert answer in str(refused.value)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("services: {node: {recipe: qdrant}}", "services: 'node' is one of our own exporters"),
        ("services: {a-b: {recipe: qdrant}}", "'a-b' cannot be a service's name"),
        ("ports: [x]\nservices: {x: {recipe: qdrant}}", "ports: 'x' is also a service"),
        (
            "metrics: {x: 'http://localhost:1/metrics'}\nservices: {x: {recipe: qdrant}}",
            "metrics: 'x' is also a service",
        ),
        (
            "services: {a: {recipe: qdrant, after: [b]}, b: {recipe: qdrant, after: [a]}}",
            "waits for",
        ),
    ],
)
def test_names_and_orders_that_cannot_be(text, answer, tmp_path):
    with pytest.raises(SpecError) as refused:
        planned(f"run: x\n{text}", tmp_path)
    assert answer in str(refused.value)


def test_a_phase_that_asks_for_something_unknown_of_a_service(tmp_path):
    with pytest.raises(SpecError) as refused:
        planned("run: 'x {{ services.db.ulr }}'\nservices: {db: {recipe: qdrant}}", tmp_path)
    assert "did you mean 'url'?" in str(refused.value)


def test_replicas_take_the_next_nodes_in_turn(tmp_path):
    found = service("{recipe: vllm, model: m, replicas: 2, nodes: 2, node: 1}", tmp_path, nodes=3)
    assert [(one.label, one.nodes) for one in found] == [("one-0", (1, 2)), ("one-1", (0, 1))]


def test_services_start_when_those_that_they_need_are_ready(tmp_path):
    plan = planned(
        "run: x\nservices: {c: {recipe: qdrant, after: [a, b]}, a: {recipe: qdrant}, "
        "b: {recipe: qdrant, after: [a]}, d: {recipe: qdrant}}",
        tmp_path,
    )
    levels = [[one.label for one in level] for level in plan.services.levels]
    assert levels == [["a", "d"], ["b"], ["c"]]


def test_a_service_of_one_node_stays_on_loopback(tmp_path):
    assert service("{recipe: qdrant}", tmp_path, nodes=1)[0].listen_host == "127.0.0.1"
    assert service("{recipe: qdrant}", tmp_path)[0].listen_host == "0.0.0.0"
    assert service("{recipe: qdrant, reach: node}", tmp_path)[0].listen_host == "127.0.0.1"


def test_what_only_another_node_can_reach_is_recorded_through_a_gateway(tmp_path):
    def kinds(text, **options):
        return [(one.metrics.kind, one.metrics.keyed) for one in service(text, tmp_path, **options)]

    assert kinds("{recipe: qdrant, node: 1, reach: node}") == [("gated", True)]
    assert kinds("{recipe: qdrant, node: 1}") == [("keyed", True)]
    assert kinds("{recipe: qdrant, reach: node}") == [("keyed", True)]
    http = "{recipe: http, command: [x], reach: node, replicas: 2}"
    assert kinds(http) == [("payload", False), ("gated", False)]
    assert kinds(http, nodes=1) == [("payload", False)] * 2


def test_words_stay_words_and_only_variables_are_special(tmp_path):
    (one,) = service(
        """{recipe: http, command: [serve, "it's $HOME; $(reboot)", "--port={{ port }}"]}""",
        tmp_path,
    )
    assert words(one) == [
        "serve",
        """'it'"'"'s '"${HOME-}"'; $(reboot)'""",
        """--port="${SERVICE_PORT_HTTP-}\"""",
    ]


def test_options_are_there_when_their_parameter_is(tmp_path):
    (plain,) = service("{recipe: vllm, model: m, fine_histograms: false}", tmp_path)
    assert [str(word).partition("=")[0] for word in words(plain)] == [
        "vllm",
        "serve",
        "m",
        "--host",
        "--port",
        "--served-model-name",
    ]
    (long,) = service("{recipe: vllm, model: m, max_model_len: 4096, ttft_slo_s: [0.33]}", tmp_path)
    assert "--max-model-len=4096" in words(long)
    (fine,) = [part for part in long.command if part.since]
    assert fine.since == "0.32"
    assert "0.3, 0.33, 0.4" in str(fine.words[0])


def test_a_server_of_several_nodes_is_told_where_they_meet_and_a_server_of_one_is_not(tmp_path):
    asked = "{recipe: vllm, model: m, data_parallel_size: 4, fine_histograms: false, nodes: %s}"
    (wide,) = service(asked % 2, tmp_path)
    follower = [str(word) for part in wide.follower for word in part.words]
    across = {
        "--data-parallel-size=4",
        "--nnodes=2",
        '--node-rank="${SERVICE_RANK-}"',
        '--master-addr="${SERVICE_HEAD_ADDRESS-}"',
        '--master-port="${SERVICE_RENDEZVOUS-}"',
        '--data-parallel-rpc-port="${SERVICE_SECOND_RENDEZVOUS-}"',
    }
    assert across <= set(words(wide)) & set(follower)
    assert dict(wide.environment)["VLLM_HOST_IP"] == '"${SERVICE_ADDRESS-}"'
    (narrow,) = service(asked % 1, tmp_path)
    assert across.intersection(words(narrow)) == {"--data-parallel-size=4"}
    assert "VLLM_HOST_IP" not in dict(narrow.environment)


def test_what_an_offline_site_needs_is_set_there_alone(tmp_path):
    names = [
        dict(service("{recipe: vllm, model: m}", tmp_path, offline=offline)[0].environment)
        for offline in (False, True)
    ]
    assert "HF_HUB_OFFLINE" not in names[0]
    assert names[1]["HF_HUB_OFFLINE"] == "1"


def test_models_and_caches_lie_where_the_site_says(tmp_path):
    storage = Storage(models=["$PROJECT/models", "/models"], cache="$SCRATCH/it's")
    (one,) = service("{recipe: vllm, model: a/llama}", tmp_path, storage=storage)
    assert words(one)[2] == '"${SERVICE_FOUND_MODEL-}"'
    assert "--served-model-name=a/llama" in words(one)
    (search,) = one.searches
    assert (search.value, search.folders) == ("a/llama", ('"${PROJECT-}"/models', "/models"))
    caches = {name: word for name, word in one.environment if "CACHE" in name}
    assert caches["VLLM_CACHE_ROOT"] == """"${SCRATCH-}"'/it'"'"'s/vllm'"""
    assert one.cache == caches["VLLM_CACHE_ROOT"].replace("/vllm", "")
    assert one.homeless == ()
    # What the job file says counts before the site, and a whole path needs no search.
    text = "{recipe: vllm, model: /m, environment: {TRITON_CACHE_DIR: /t}}"
    (own,) = service(text, tmp_path, storage=storage)
    assert (words(own)[2], own.searches) == ("/m", ())
    assert dict(own.environment)["TRITON_CACHE_DIR"] == "/t"
    (ollama,) = service("{recipe: ollama}", tmp_path, storage=storage)
    assert dict(ollama.environment)["OLLAMA_MODELS"].endswith("/ollama'")


def test_caches_that_fill_the_home_are_said(tmp_path):
    text = "run: x\nservices: {small: {recipe: ollama}, own: {recipe: ollama, models: /m}}"
    (line,) = in_the_home(planned(text, tmp_path).services, "here")
    assert line.startswith("services.small: what it downloads and compiles goes to the home, as ")
    assert line.endswith("name a folder there, or set OLLAMA_MODELS")
    storage = Storage(cache="/cache")
    assert in_the_home(planned(text, tmp_path, storage=storage).services, "here") == ()


def test_a_recipe_of_ones_own_lies_beside_the_job_file(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "description: d\ncommand: [mine, '{{ job_dir }}/x']\nready: {path: /}\n"
    )
    (one,) = service("{recipe: mine.yaml}", tmp_path)
    assert words(one) == ["mine", f"{tmp_path}/x"]
    assert one.metrics is None


def test_a_followed_log_is_that_of_the_service(tmp_path):
    plan = planned("run: x\nservices: {small: {recipe: ollama}}", tmp_path)
    assert [(log.service, log.rules) for log in plan.logs] == [("small", "ollama")]
    assert "logs" in plan.target_names


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_names_an_image_of_the_list_or_none(name):
    images = Path(__file__).parents[2] / "containers" / "images.yaml"
    recipe = read_recipe(name, Path(), "")
    known = yaml.safe_load(images.read_text())
    known = known.get("images", known)
    assert recipe.image is None or recipe.image in known


def test_services_of_a_job_file_are_not_checked_without_a_recipe():
    """Further keys are the recipe's; those of every service are checked at once."""
    with pytest.raises(ValueError, match="node"):
        JobSpec.model_validate({"run": "x", "services": {"a": {"recipe": "http", "node": -1}}})
