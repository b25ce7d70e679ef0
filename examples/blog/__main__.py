"""Fills a database with an invented magazine and its shop: `python -m examples.blog URL`."""

import sys

import numpy as np
from sqlalchemy import Column, DateTime, Float, ForeignKey, Integer, MetaData, Numeric, String, Table

from examples.world import Rows, World, run

METADATA = MetaData()
SLUG = String(120)
Table("authors", METADATA, Column("id", Integer, primary_key=True), Column("name", String(100), nullable=False))
Table(
    "readers",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("email", String(120)),
    Column("language", String(5)),
    Column("created_at", DateTime, nullable=False),
)
Table(
    "articles",
    METADATA,
    Column("slug", SLUG, primary_key=True),
    Column("author_id", Integer, ForeignKey("authors.id"), nullable=False),
    Column("headline", String(200), nullable=False),
    Column("language", String(5), nullable=False),
    Column("published_at", DateTime),
)
Table(
    "products",
    METADATA,
    Column("slug", SLUG, primary_key=True),
    Column("name", String(100), nullable=False),
    Column("price", Numeric(8, 2), nullable=False),
    Column("stock", Integer, nullable=False),
    Column("added_at", DateTime, nullable=False),
)
Table(
    "article_tags",
    METADATA,
    Column("article_slug", SLUG, ForeignKey("articles.slug"), primary_key=True),
    Column("tag", String(60), primary_key=True),
)
Table(
    "product_tags",
    METADATA,
    Column("product_slug", SLUG, ForeignKey("products.slug"), primary_key=True),
    Column("tag", String(60), primary_key=True),
)
Table(
    "article_reads",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("reader_id", Integer, nullable=False, index=True),
    Column("article_slug", SLUG, nullable=False, index=True),
    Column("share_read", Float),
    Column("read_at", DateTime, nullable=False),
)
Table(
    "bookmarks",
    METADATA,
    Column("reader_id", Integer, ForeignKey("readers.id"), primary_key=True),
    Column("article_slug", SLUG, ForeignKey("articles.slug"), primary_key=True),
)
Table(
    "order_lines",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("reader_id", Integer, ForeignKey("readers.id"), nullable=False, index=True),
    Column("product_slug", SLUG, ForeignKey("products.slug"), nullable=False, index=True),
    Column("ordered_at", DateTime, nullable=False),
)

TOPICS = {
    "gardening": "seeds soil pruning shears trowel compost",
    "cycling": "wheels brakes saddle pump touring chain",
    "baking": "sourdough tins flour oven whisk crust",
    "astronomy": "stars lens tripod eclipse comet chart",
    "knitting": "wool needles pattern scarf gauge dye",
    "chess": "opening endgame clock board puzzle tactics",
}
OPENINGS = (
    "What nobody says about",
    "A year with",
    "Ten notes on",
    "In praise of",
    "How we learned to love",
    "Against",
)


def slug(text: str, number: int) -> str:
    return "-".join(text.lower().split()) + f"-{number}"


def make(world: World) -> Rows:
    rng, topics = world.rng, list(TOPICS)
    authors, articles, products = max(8, world.people // 20), max(80, world.people), max(30, world.people // 5)
    tastes = world.tastes(world.people, len(topics))

    def about(count: int) -> list[int]:
        return [int(topic) for topic in rng.integers(0, len(topics), count)]

    of_article, of_product = about(articles), about(products)
    words = {topic: TOPICS[topic].split() for topic in topics}
    headlines = [f"{rng.choice(OPENINGS)} {rng.choice(words[topics[topic]])}" for topic in of_article]
    names = [f"{rng.choice(words[topics[topic]])} set" for topic in of_product]
    pages = [slug(headline, place) for place, headline in enumerate(headlines)]
    goods = [slug(name, place) for place, name in enumerate(names)]
    born, added = rng.uniform(0.05, 200, articles), rng.uniform(1, 500, products)
    speaks = np.where(rng.random(world.people) < 0.7, "en", "es")
    written = np.where(rng.random(articles) < 0.8, "en", "es")
    reads = world.choices(
        tastes, np.eye(len(topics))[of_article], born, each=15, fading_days=10, fits=speaks[:, None] == written
    )
    orders = world.choices(tastes, np.eye(len(topics))[of_product], added, each=3, fading_days=300)

    def tags(slugs: list[str], of: list[int], key: str) -> list[dict[str, str]]:
        return [
            {key: one, "tag": str(tag)}
            for one, topic in zip(slugs, of, strict=True)
            for tag in [topics[topic], *rng.choice(words[topics[topic]], 2, replace=False)]
        ]

    return {
        "authors": [{"id": one + 1, "name": world.name()} for one in range(authors)],
        "readers": [
            {
                "id": one + 1,
                "email": f"reader{one + 1}@example.org",
                "language": str(speaks[one]),
                "created_at": world.ago(float(rng.uniform(151, 900))),
            }
            for one in range(world.people)
        ],
        "articles": [
            {
                "slug": pages[one],
                "author_id": int(rng.integers(1, authors + 1)),
                "headline": headlines[one],
                "language": str(written[one]),
                "published_at": world.ago(float(born[one])) if rng.random() > 0.04 else None,
            }
            for one in range(articles)
        ],
        "products": [
            {
                "slug": goods[one],
                "name": names[one],
                "price": round(float(rng.lognormal(3, 0.6)), 2),
                "stock": int(rng.integers(0, 40)),
                "added_at": world.ago(float(added[one])),
            }
            for one in range(products)
        ],
        "article_tags": tags(pages, of_article, "article_slug"),
        "product_tags": tags(goods, of_product, "product_slug"),
        "article_reads": [
            {
                "id": row + 1,
                "reader_id": person + 1,
                "article_slug": pages[item],
                "share_read": round(float(rng.beta(2, 1)), 2) if rng.random() > 0.1 else None,
                "read_at": world.ago(days),
            }
            for row, (person, item, days) in enumerate(reads)
        ],
        "bookmarks": [
            {"reader_id": person + 1, "article_slug": pages[item]}
            for person, item in sorted({(person, item) for person, item, _ in reads[::7]})
        ],
        "order_lines": [
            {"id": row + 1, "reader_id": person + 1, "product_slug": goods[item], "ordered_at": world.ago(days)}
            for row, (person, item, days) in enumerate(orders)
        ],
    }


if __name__ == "__main__":
    sys.exit(run("blog", METADATA, make))
